"""The library as a notebook uses it: load, override, distil, search, evaluate, compare."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.studies import ONE_AT_A_TIME, TINY_STUDY

import rayvldd as rv


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def study() -> rv.Study:
    space = {"distillation.lr_image": {"type": "float", "low": 1.0, "high": 100.0, "log": True}}
    search = {"space": space, "num_trials": 2, "num_finalists": 0}
    loaded = rv.load_study({**TINY_STUDY, "search": search, "resources": ONE_AT_A_TIME})
    return loaded.override({"search.num_trials": 3})


@pytest.fixture(scope="module")
def result(study: rv.Study, workspace: Path) -> rv.StudyResult:
    return rv.search(study, workspace=workspace, tracking_uri="none")


def test_a_search_gives_its_trials_as_a_frame(result: rv.StudyResult, workspace: Path) -> None:
    assert isinstance(result.trials, pd.DataFrame) and len(result.trials) == 3
    assert {"trial", "state", "val_mean_recall", "distillation.lr_image"} <= set(result.trials.columns)
    assert set(result.best) == {"distillation.lr_image"}
    assert 0 <= result.test_mean_recall <= 100 and result.val_mean_recall == max(result.trials["val_mean_recall"])
    assert repr(result).startswith("StudyResult('tiny', 3 trials, val ")
    html = result._repr_html_()
    assert html.count("<table") == 2 and "StudyResult" in html and "share of full data" in html


def test_the_chosen_set_is_a_dataset_with_a_picture(result: rv.StudyResult) -> None:
    distilled = result.distilled_set()
    assert repr(distilled) == "DistilledSet('tiny', 4 pairs, 16 px, embeddings 32 wide)"
    assert distilled == rv.DistilledSet.load(result.outcome.distilled_set) and distilled != "a set"
    other = rv.DistilledSet.load(result.outcome.distilled_set)
    other.images = other.images + 1
    assert distilled != other
    figure = distilled.plot(pairs=3)
    assert len(figure.axes) == 6
    image, text = distilled[0]
    assert image.shape == (3, 16, 16) and torch.equal(text, distilled.texts[0])


def test_an_evaluation_is_kept_and_compared(result: rv.StudyResult, workspace: Path) -> None:
    best = result.outcome.distilled_set
    found = rv.evaluate(best, workspace=workspace, students=2, split="test", coresets=["random"])
    assert list(found.frame["set"]) == [best, "4 pairs, random", "all pairs"]
    assert found.file.parent == workspace / "scores"
    assert "heads_only: recall on test (%)" in found._repr_html_() and "4 pairs, random (2)" in found._repr_html_()
    (difference,) = found.scores.differences
    means = found.scores.sets[0].mean_recall, found.scores.coresets[0].mean_recall
    assert difference.mean == pytest.approx(means[0] - means[1]) and difference.interval is None, "two students"
    again = rv.evaluate(best, workspace=workspace, students=2, split="test", coresets=["random"])
    assert again.file == found.file, "the same evaluation replaces itself"
    compared = rv.compare(workspace=workspace)
    assert compared.page.is_file() and compared.verdicts and not compared.unread
    assert "<li>" in compared._repr_html_()
    assert "4 pairs, random" in compared.page.read_text(encoding="utf-8")


def test_a_distillation_returns_its_set(workspace: Path) -> None:
    study = rv.load_study(TINY_STUDY).override({"name": "once"})
    first, again = (rv.distill(study, workspace=workspace, tracking_uri="none") for _ in range(2))
    assert first == again and first.origin.study["name"] == "once"


def test_faults_of_a_mapping_are_reported_with_their_keys() -> None:
    with pytest.raises(rv.RayvlddError, match=r"<dict>: distillation.syn_steps: unknown key 'syn_steps'") as raised:
        rv.load_study({**TINY_STUDY, "distillation": {"syn_steps": 3}})
    message = str(raised.value)
    assert "did you mean" in message and "'distillation.trajectory_matching.syn_steps'" in message


def test_a_search_can_be_called_again(study: rv.Study, result: rv.StudyResult, workspace: Path) -> None:
    again = rv.search(study, workspace=workspace, tracking_uri="none")
    assert again.best == result.best and again.trials.equals(result.trials)


def test_no_public_name_is_also_a_folder_or_a_module() -> None:
    """Importing a module binds it in its package, in place of what bore the name before."""
    inside = {module.name for module in pkgutil.iter_modules(rv.__path__)}
    assert "hyperparameter_search" in inside and not inside & set(rv.__all__)


def test_the_import_is_light_and_every_name_is_there() -> None:
    code = "import rayvldd as rv, sys; heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pydantic'} & set(sys.modules); "
    code += "print(sorted(heavy)); [getattr(rv, name) for name in rv.__all__]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
