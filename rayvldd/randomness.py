"""Every random stream: which purposes there are, and the generator or seed of each.

A stream is a pure function of the study's seed, its purpose and numbers that tell its members apart, so that no draw
depends on what was drawn before for another purpose. Nothing draws from a global stream.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np

SEED_END = 2**31
"""Seeds lie below this number: torch and scikit-learn take them all."""


class Stream(IntEnum):
    """What a random stream is for. The values are part of every stream: changing one changes results."""

    EXPERT = 1
    """Initialisation, batches and dropout of an expert; numbered by the expert."""
    FULL_DATA = 2
    """The same for a model trained on all pairs; numbered by the student's seed."""
    CORESET = 3
    """Choice of real pairs."""
    DISTILLATION = 4
    """Initialisation, segments and batches of a distillation; numbered by the run's seed."""
    STUDENTS = 5
    """Seeds of fresh students; numbered by :class:`StudentPurpose`."""
    TRIAL = 101
    """Seed of a trial; numbered by the trial."""
    SAMPLER = 102
    """Seed of the sampler; numbered by the trials that are known."""
    BRACKET = 103
    """Hyperband's bracket of a trial; numbered by the trial."""
    FINALIST = 104
    """Seed of a finalist's run; numbered by trial and repeat."""


class StudentPurpose(IntEnum):
    """What students are trained for: each purpose has students of its own, so that none is chosen and tested by."""

    VALIDATION = 0
    TEST = 1
    FINALISTS = 2


def generator_of(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """The generator of a stream of the study with this seed."""
    return np.random.default_rng([seed, int(stream), *numbers])


def coreset_generator(seed: int) -> np.random.Generator:
    """The generator that chooses a coreset, whose seed is its own and no study's."""
    return np.random.default_rng([seed, int(Stream.CORESET)])


def student_seeds(study_seed: int, count: int, purpose: StudentPurpose = StudentPurpose.VALIDATION) -> list[int]:
    """Seeds of ``count`` fresh students; the first ones do not depend on ``count``."""
    drawn = generator_of(study_seed, Stream.STUDENTS, int(purpose)).integers(SEED_END, size=count)
    return [int(seed) for seed in drawn]


def trial_seed(study_seed: int, number: int) -> int:
    """Seed of the trial with this number, which decides its initial pairs, segments and batches.

    Under ``search.trial_seeds: common`` every trial takes that of trial 0.
    """
    return _seed(study_seed, Stream.TRIAL, number)


def sampler_seed(study_seed: int, known_trials: int) -> int:
    """Seed of the sampler when so many trials are known.

    A study that continues must not draw the points of its beginning again, so the count is part of the seed.
    """
    return _seed(study_seed, Stream.SAMPLER, known_trials)


def bracket_seed(study_seed: int, number: int) -> int:
    """Seed of the draw of Hyperband's bracket for the trial with this number."""
    return _seed(study_seed, Stream.BRACKET, number)


def finalist_seed(study_seed: int, number: int, repeat: int) -> int:
    """Seed of a finalist's run: another one for each repeat, and none of any trial."""
    return _seed(study_seed, Stream.FINALIST, number, repeat)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's global streams, CPU and GPUs, begin at ``seed`` in the block, and be afterwards what they were."""
    import torch  # here, so that seeds of a search cost no import of torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _seed(study_seed: int, stream: Stream, *numbers: int) -> int:
    state = np.random.SeedSequence([study_seed, int(stream), *numbers]).generate_state(1)
    return int(state[0]) % SEED_END
