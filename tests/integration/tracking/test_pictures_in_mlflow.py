"""Pictures of trials by outer step in MLflow: each step once, and a damaged one keeps nothing from being written."""

import re
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image

from rayvldd.config.study import Study
from rayvldd.tracking.mlflow_tracker import MlflowTracker


def test_a_step_is_written_once_over_two_sessions(tmp_path: Path, tiny_study: Study) -> None:
    files = {step: tmp_path / f"{step:06d}.png" for step in (0, 2, 4)}
    for step, file in files.items():
        Image.new("RGB", (30, 20), (step * 50, 0, 0)).save(file)
    for session in (1, 2):
        tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts")
        tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
        tracker.start_trial("trial_000", {"distillation.lr_image": 10.0})
        for step in (0, 2) if session == 1 else (0, 2, 4):
            tracker.log_picture("trial_000", files[step], step)
        if session == 2:
            tracker.end_trial("trial_000", "finished", None, {})
        tracker.end_study("interrupted" if session == 1 else "finished", {}, None)
        assert not tracker.missing
    client = MlflowClient(tracking_uri=tracker.uri)
    (run,) = client.search_runs([tracker._experiment], "tags.`rayvldd.kind` = 'trial'")
    assert run.data.tags["mlflow.loggedImages"] == "True"
    names = sorted(Path(one.path).name for one in client.list_artifacts(run.info.run_id, "images"))
    steps = [
        re.match(r"distilled pairs\+step\+(\d+)\+timestamp\+\d+\+[\w-]+(\+compressed\.webp|\.png)$", name)
        for name in names
    ]
    assert [(found[1], found[2]) for found in steps if found] == [
        (step, ending) for step in "024" for ending in ("+compressed.webp", ".png")
    ]
    (last,) = [name for name in names if "+step+4+" in name and name.endswith(".png")]
    with Image.open(client.download_artifacts(run.info.run_id, f"images/{last}", str(tmp_path))) as opened:
        assert (opened.size, opened.getpixel((0, 0))) == ((30, 20), (200, 0, 0))


def test_a_picture_that_cannot_be_read_is_dropped_and_the_trial_is_complete(tmp_path: Path, tiny_study: Study) -> None:
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG no picture")
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts")
    tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
    tracker.start_trial("trial_000", {"distillation.lr_image": 10.0})
    for step, name in enumerate(("damaged.png", "missing.png")):
        tracker.log_picture("trial_000", tmp_path / name, step)
    tracker.log_metrics("trial_000", {"val_mean_recall": 1.5}, 0)
    tracker.end_trial("trial_000", "finished", None, {})
    tracker.end_study("finished", {}, None)
    found = [re.sub(r": .*/", ": ", one) for one in tracker.missing]
    assert [one.partition(".png")[0] for one in found] == [
        "the picture of trial_000 at step 0: damaged",
        "the picture of trial_000 at step 1: missing",
    ]
    client = MlflowClient(tracking_uri=tracker.uri)
    (run,) = client.search_runs([tracker._experiment], "tags.`rayvldd.kind` = 'trial'")
    assert (run.info.status, run.data.metrics["val_mean_recall"]) == ("FINISHED", 1.5)
