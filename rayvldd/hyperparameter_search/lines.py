"""One-line descriptions of trials and earlier studies for the terminal."""

from collections.abc import Sequence

from rayvldd.config.domains import point_as_text
from rayvldd.records.study_outcome import LearnedStudy
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


def line_of_learned(studies: Sequence[LearnedStudy], verb: str) -> str:
    """One line on the sources, the one with the highest weight first."""
    by_weight = sorted(studies, key=lambda one: -one.weight)
    words = ", ".join(f"{one.study} {one.weight:.1f}" if one.weight else f"{one.study} dropped" for one in by_weight)
    return f"{verb} {len(studies)} {'study' if len(studies) == 1 else 'studies'} ({words})"
