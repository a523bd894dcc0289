"""One-line descriptions of trials for the terminal, and the time that is left."""

from collections.abc import Collection

import numpy as np

from rayvldd.config.domains import point_as_text
from rayvldd.config.study import Study
from rayvldd.records.trial import Trial


def line_of_trial(trial: Trial, *, is_best: bool = False) -> str:
    """Format an ended trial as one line: name, state, best validation recall, settings.

    Args:
        trial: The trial.
        is_best: Whether no other trial has a higher recall so far.
    """
    best, score = trial.best, "no evaluation"
    if best:
        score = f"val mean recall {best.recall:5.2f} at step {best.outer_step}" + (", best so far" if is_best else "")
    ending = f"; {trial.reason}" if trial.reason else ""
    return f"{trial.trial_id}  {trial.state:8}  {score}  {point_as_text(trial.point)}{ending}"


def seconds_left(spent: float, done: float, total: int, budget: float | None) -> float:
    """Estimate the remaining seconds of a search, limited by its time budget.

    Early estimates are too long, because trials that will be stopped are not known yet.

    Args:
        spent: Seconds of search so far.
        done: Trials that have ended, and the fractions of running ones; above 0.
        total: Trials of the search.
        budget: Time budget of the search in seconds, if there is one.
    """
    left = spent / done * (total - done)
    return left if budget is None else min(left, max(budget - spent, 0.0))


def seconds_after_search(study: Study, trials: Collection[Trial]) -> float:
    """Estimate the seconds of finalists and test evaluation from the trials so far; 0 before the first outer step.

    The models of all pairs are left out: trials do not show what they cost.
    """
    measured = [trial for trial in trials if trial.outer_step > 0 and trial.seconds]
    if not measured:
        return 0.0
    whole = np.mean([(trial.seconds or 0.0) * study.last_step_at(trial.point) / trial.outer_step for trial in measured])
    sets = study.num_finalists * study.search.finalist_seeds
    return float(sets * whole) / study.search.max_concurrent + seconds_of_test(study, measured)


def seconds_of_test(study: Study, trials: Collection[Trial]) -> float:
    """Estimate the seconds of the students of the test evaluation, of distilled sets and of random pairs."""
    evaluation, search = study.evaluation, study.search
    seconds = [
        trial.evaluations[-1].seconds_evaluating / len(trial.evaluations) / evaluation.num_students
        for trial in trials
        if trial.evaluations
    ]
    sets = search.finalist_seeds if search.num_finalists else 1
    students = (sets + 1) * evaluation.num_test_students + len(evaluation.lr_coreset) * evaluation.num_students
    return students * float(np.mean(seconds)) / search.max_concurrent if seconds else 0.0
