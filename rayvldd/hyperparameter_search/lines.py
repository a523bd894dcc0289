"""One-line descriptions of trials for the terminal, and the time that is left."""

from rayvldd.config.domains import point_as_text
from rayvldd.records.trial import Trial


def line_of_trial(trial: Trial) -> str:
    """Format an ended trial as one line: name, state, best validation recall, settings."""
    best, score = trial.best, "no evaluation"
    if best:
        score = f"val mean recall {best.recall:5.2f} at step {best.outer_step}"
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
