"""Where the seeds of a study's random streams come from; each is a pure function of what it is for."""

import numpy as np

from rayvldd.config.study import Study

_TRIAL, _SAMPLER, _BRACKET, _FINALIST = 101, 102, 103, 104


def trial_seed(study: Study, number: int) -> int:
    """Seed of the trial with this number, which decides its start pairs, segments and batches.

    Under ``search.trial_seeds: common`` it is that of trial 0 whatever the number.
    """
    return _seed(study.seed, _TRIAL, 0 if study.search.trial_seeds == "common" else number)


def sampler_seed(study_seed: int, known_trials: int) -> int:
    """Seed of the sampler when so many trials are known.

    A study that goes on must not draw the points of its beginning again, so the count is part of the seed.
    """
    return _seed(study_seed, _SAMPLER, known_trials)


def bracket_seed(study_seed: int, number: int) -> int:
    """Seed of the draw of Hyperband's bracket for the trial with this number."""
    return _seed(study_seed, _BRACKET, number)


def finalist_seed(study_seed: int, number: int, repeat: int) -> int:
    """Seed of the trial's point when it is distilled again: another one for each repeat, and none of any trial."""
    return _seed(study_seed, _FINALIST, number, repeat)


def _seed(study_seed: int, purpose: int, *numbers: int) -> int:
    return int(np.random.SeedSequence([study_seed, purpose, *numbers]).generate_state(1)[0]) % 2**31
