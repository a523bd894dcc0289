"""Random streams: an enumeration of their purposes, and the generator or seed of each.

A stream is a pure function of the study's seed, its purpose and the numbers of its members, so that random numbers of
one purpose do not depend on those of another. The global random state is not used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np

SEED_END = 2**31
"""Exclusive upper bound of seeds; torch and scikit-learn accept all seeds below it."""


class Stream(IntEnum):
    """Purpose of a random stream. The values are part of every stream: changing one changes results."""

    EXPERT = 1
    """Initialisation, batches and dropout of an expert; numbered by the expert."""
    FULL_DATA = 2
    """The same for a model trained on all pairs; numbered by the student's seed."""
    CORESET = 3
    """Selection of real pairs."""
    DISTILLATION = 4
    """Initialisation, segments and batches of a distillation; numbered by the run's seed."""
    STUDENTS = 5
    """Seeds of new students; numbered by :class:`StudentPurpose`."""
    EXPERT_START = 6
    """Initialisation that all experts of a set share, with ``experts.shared_start``."""
    NOISE = 7
    """Noise of images on which the robustness of students is measured."""
    MEMBERSHIP = 8
    """Real pairs that are compared with the start pairs of a set, for membership inference."""
    RATE_FACTORS = 9
    """Segments and batches of gradients by which outer rates are scaled; numbered by the run's seed and the draw."""
    TRIAL = 101
    """Seed of a trial; numbered by the trial."""
    SAMPLER = 102
    """Seed of the sampler; numbered by the trials that are known."""
    BRACKET = 103
    """Hyperband's bracket of a trial; numbered by the trial."""
    FINALIST = 104
    """Seed of a finalist's run; numbered by trial and repeat."""
    UNTRIED = 105
    """Points of a finite space, for a sampler that proposes known ones only; numbered by the trial."""
    FIRST_POINTS = 106
    """Comparison of the points of earlier studies with which a study may begin."""


class StudentPurpose(IntEnum):
    """Purpose of students; each purpose has its own students, so that no student is used for both choice and test."""

    VALIDATION = 0
    TEST = 1
    FINALISTS = 2


def generator_of(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """Return the generator of a stream of the study with this seed."""
    return np.random.default_rng([seed, int(stream), *numbers])


def coreset_generator(seed: int) -> np.random.Generator:
    """Return the generator for selecting a coreset; its seed is independent of a study's."""
    return np.random.default_rng([seed, int(Stream.CORESET)])


def student_seeds(study_seed: int, count: int, purpose: StudentPurpose = StudentPurpose.VALIDATION) -> list[int]:
    """Return the seeds of ``count`` new students; the first ones do not depend on ``count``."""
    drawn = generator_of(study_seed, Stream.STUDENTS, int(purpose)).integers(SEED_END, size=count)
    return [int(seed) for seed in drawn]


def trial_seed(study_seed: int, number: int) -> int:
    """Seed of the trial with this number, which determines its initial pairs, segments and batches.

    With ``search.trial_seeds: common`` all trials use the seed of trial 0.
    """
    return _seed(study_seed, Stream.TRIAL, number)


def sampler_seed(study_seed: int, known_trials: int) -> int:
    """Seed of the sampler when ``known_trials`` trials are known.

    The number is part of the seed so that a resumed study does not sample its first points again.
    """
    return _seed(study_seed, Stream.SAMPLER, known_trials)


def bracket_seed(study_seed: int, number: int) -> int:
    """Seed of the choice of Hyperband's bracket for the trial with this number."""
    return _seed(study_seed, Stream.BRACKET, number)


def finalist_seed(study_seed: int, number: int, repeat: int) -> int:
    """Seed of a finalist's run; it differs between repeats and from the seeds of all trials."""
    return _seed(study_seed, Stream.FINALIST, number, repeat)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators of CPU and GPUs within the block, and restore their states afterwards."""
    import torch  # here, so that seeds of a search cost no import of torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _seed(study_seed: int, stream: Stream, *numbers: int) -> int:
    state = np.random.SeedSequence([study_seed, int(stream), *numbers]).generate_state(1)
    return int(state[0]) % SEED_END
