"""Descriptions of runs and model versions in MLflow: the headline of a result, and its picture."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, FULL_DATA_MEAN_RECALL, MEAN_RECALL, RANDOM_MEAN_RECALL
from rayvldd.records.gain import METRICS_TO_TRY
from rayvldd.tracking.protocol import State

NOTE = "mlflow.note.content"
"""Tag with the description of a run, in Markdown."""
RUN_ID = "{run_id}"
"""Replaced by the id of the run, which is not known before the run is open."""


def note_of_study(metrics: Mapping[str, float], artifacts: Path | None, command: str) -> str:
    """The result of a study on test, or of a distillation on validation, its picture and its command."""
    test = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
    parts = []
    if MEAN_RECALL.name in test:
        interval = [test[name] for name in ("interval_low", "interval_high") if name in test]
        of_interval = f" ({interval[0]:.1f}–{interval[1]:.1f})" if len(interval) == 2 else ""
        headline = f"**{test[MEAN_RECALL.name]:.1f} % mean recall on test**{of_interval}"
        others = {"random pairs": RANDOM_MEAN_RECALL, "all pairs": FULL_DATA_MEAN_RECALL}
        beside = [f"{name} {test[key]:.1f}" for name, key in others.items() if key in test]
        parts.append(f"{headline}; {', '.join(beside)}." if beside else f"{headline}.")
    elif BEST_VAL_MEAN_RECALL in metrics:
        parts.append(f"**{metrics[BEST_VAL_MEAN_RECALL]:.1f} % mean recall on validation**.")
    if rates := [f"`{key}={metrics[name]:g}`" for key, name in METRICS_TO_TRY.items() if name in metrics]:
        parts.append(
            f"**Warning**: nothing rose above its start, so the set is its starting pairs. Try {' and '.join(rates)}."
        )
    return "\n\n".join([*parts, *_picture(artifacts), f"`{command}`"])


def note_of_trial(state: State, best_recall: float | None, artifacts: Path | None) -> str:
    """The highest validation recall of a trial, its state and its picture."""
    recall = "No evaluation" if best_recall is None else f"**{best_recall:.1f} % mean recall on validation**"
    return "\n\n".join([f"{recall}, {state}.", *_picture(artifacts)])


def _picture(artifacts: Path | None) -> list[str]:
    """The first picture among the artifacts, from MLflow's server."""
    pictures = sorted(artifacts.rglob("*.jpg")) if artifacts is not None else []
    if artifacts is None or not pictures:
        return []
    path = quote(str(pictures[0].relative_to(artifacts)))
    return [f"![Pairs before and after distillation](get-artifact?path={path}&run_uuid={RUN_ID})"]
