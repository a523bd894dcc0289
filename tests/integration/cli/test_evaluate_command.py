"""``rayvldd evaluate`` and ``coreset``: which sets share a crew, which encoder is meant, faults before work."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.cli import last_object, run
from helpers.studies import TINY_STUDY
from helpers.tasks import StudyTask, load

from rayvldd.cli.encoder_options import read_encoders
from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.config.study import Study
from rayvldd.coresets.selection import METHODS, NESTED_METHODS, choose_coreset
from rayvldd.distillation.coreset_set import coreset_as_set
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.errors import InputError
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.students import PairsInOrder, evaluate_pairs
from rayvldd.experts.recipe import expert_training
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.library.encoder_ranks import spearman
from rayvldd.library.scoring import seeds_of_students, summary_of_students
from rayvldd.library.set_groups import group_sets, load_sets
from rayvldd.records.coreset_rate import ChosenRate
from rayvldd.records.made_sets import is_made_set
from rayvldd.records.set_card import CoresetCard, CoresetOrigin
from rayvldd.records.set_scores import kept_scores
from rayvldd.reports.page.baselines import comparable_sets

OTHER = {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 16, "width": 4}}
"""An encoder of another width, on a scale of its own."""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> StudyTask:
    return load(Study.model_validate(TINY_STUDY), tmp_path_factory.mktemp("cache"))


def rate_of(learning_rate: float, weight_decay: float | None = None) -> ChosenRate:
    """A rate that was chosen from no others."""
    return ChosenRate(learning_rate=learning_rate, weight_decay=weight_decay, val_mean_recall=None, num_rates=1)


@pytest.fixture
def set_folder(task: StudyTask, tmp_path: Path) -> Path:
    """Six real pairs in the form of a distilled set."""
    folder = tmp_path / "six"
    coreset = choose_coreset(task, "herding", 6, seed=1, training=expert_training(task.study))
    coreset_as_set(task.study, task, coreset, "herding", 1, rate_of(0.1)).save(folder)
    return folder


def with_card(distilled: DistilledSet, **changes: Any) -> DistilledSet:
    """The set with dotted settings of its card changed."""
    study = Study.model_validate(distilled.origin.study).at(changes).model_dump(mode="json")
    return dataclasses.replace(distilled, card=distilled.origin.model_copy(update={"study": study}))


# --- coresets as sets ---------------------------------------------------------------------------------------------


def test_a_saved_coreset_is_a_set_of_the_same_pairs(task: StudyTask, set_folder: Path) -> None:
    coreset = choose_coreset(task, "herding", 6, seed=1, training=expert_training(task.study))
    saved = DistilledSet.load(set_folder)
    again, pairs = saved.pairs(task), coreset.pairs(task, 0.1)
    assert torch.allclose(again.images, pairs.images, atol=1e-6) and torch.equal(again.texts, pairs.texts)
    assert (again.lr_image, again.lr_text) == (pairs.lr_image, pairs.lr_text)
    assert again.similarity is None and again.pair_loss == "info_nce"
    assert saved.start_captions == coreset.captions(task)
    names = [task.train.split.image_names[index] for index in coreset.image_index]
    assert isinstance(saved.card, CoresetCard)
    assert saved.card.coreset == CoresetOrigin(method="herding", seed=1, images=names)
    assert "6 pairs, 16 px images" in saved.describe()


def test_real_pairs_are_trained_on_plainly_whatever_the_study_distils_with(task: StudyTask, tmp_path: Path) -> None:
    lors = {"distillation.student_loss": "weighted_bce", "distillation.similarity": "low_rank"}
    study = task.study.at({**lors, "distillation.trajectory_matching.batch_size": 4})
    coreset = choose_coreset(task, "random", 3, seed=0, training=expert_training(study))
    saved = coreset_as_set(study, task, coreset, "random", 0, rate_of(0.1))
    assert saved.student_loss == "info_nce" and saved.pairs(task).similarity is None


def test_the_card_of_a_coreset_states_the_weight_decay_of_its_students(task: StudyTask) -> None:
    coreset = choose_coreset(task, "random", 3, seed=0, training=expert_training(task.study))
    for chosen, stated in ((None, task.study.evaluation.weight_decay), (0.02, 0.02)):
        saved = coreset_as_set(task.study, task, coreset, "random", 0, rate_of(0.1, chosen))
        assert Study.model_validate(saved.origin.study).evaluation.weight_decay == stated


@pytest.mark.parametrize("method", NESTED_METHODS)
def test_the_first_pairs_of_a_larger_choice_are_the_smaller_one(task: StudyTask, method: str) -> None:
    small, large = (
        choose_coreset(task, method, number, seed=3, training=expert_training(task.study)) for number in (5, 11)
    )
    assert large.first(5).image_index.tolist() == small.image_index.tolist()
    assert large.first(5).caption_index.tolist() == small.caption_index.tolist()


def test_every_method_without_clusters_is_nested() -> None:
    assert set(METHODS) - set(NESTED_METHODS) == {"k_means", "prototypes"}


# --- intervals ----------------------------------------------------------------------------------------------------


def test_a_summary_has_interval_and_share_computed_by_hand() -> None:
    students = [RetrievalMetrics(*[value] * 6) for value in (10.0, 11.0, 12.0)]
    found = summary_of_students(students, [RetrievalMetrics(*[44.0] * 6)])
    assert found.mean["mean_recall"] == pytest.approx(11)
    # The 97.5 % point of Student's t with two degrees of freedom, a deviation of 1 %, on the logit scale.
    centre, half = np.log(0.11 / 0.89), 4.302653 * 0.01 / np.sqrt(3) / (0.11 * 0.89)
    expected = 100 / (1 + np.exp(-centre - np.array([-half, half])))
    assert found.mean_interval == pytest.approx(tuple(expected), abs=1e-5)
    assert found.share_of_full_data == pytest.approx(0.25)


def test_one_student_has_no_interval_and_no_bound_no_share() -> None:
    found = summary_of_students([RetrievalMetrics(*[0.0] * 6)])
    assert found.interval["text_to_image_r1"] is found.std["mean_recall"] is found.share_of_full_data is None


# --- which encoder is meant ---------------------------------------------------------------------------------------


def test_encoders_are_read_in_every_form(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(OTHER))
    encoders, faults = read_encoders(["resnet18", "resnet18=a.safetensors", str(file)], "--transfer")
    assert not faults
    assert list(encoders) == ["resnet18", "resnet18=a.safetensors", "convnet_d3"]
    assert encoders["resnet18=a.safetensors"].weights == "a.safetensors"
    assert encoders["convnet_d3"].options == OTHER["options"]


def test_unreadable_encoders_are_reported_together(tmp_path: Path) -> None:
    wrong, text, deep = tmp_path / "wrong.yaml", tmp_path / "text.yaml", tmp_path / "deep.yaml"
    wrong.write_text("nmae: resnet18")
    text.write_text("resnet18")
    deep.write_text("name: " + "[" * 1000)
    _, faults = read_encoders([str(wrong), str(text), str(deep), str(tmp_path / "none.yaml")], "--transfer")
    problems = [fault.problem for fault in faults]
    assert len(problems) == 4 and "nmae" in problems[0] and "has no keys" in problems[1]
    assert "more than 50 levels" in problems[2] and "No such file" in problems[3]


def test_sets_of_the_same_settings_share_a_group(set_folder: Path) -> None:
    one = load_sets([str(set_folder)], set_folder)[str(set_folder)]
    other_method = with_card(one, **{"distillation.lr_image": 3.0})
    other_model = with_card(one, **{"model.width": 24})
    groups = group_sets({"one": one, "method": other_method, "model": other_model}, {})
    assert [list(group.sets) for group in groups] == [["one", "method"], ["model"]]


def test_a_matrix_has_a_group_for_each_encoder_and_keeps_a_sets_own_settings(set_folder: Path) -> None:
    one = load_sets([str(set_folder)], set_folder)[str(set_folder)]
    named = {**OTHER, "name": "test_byobnet"}
    other = with_card(one, **{"model.image_encoder": {**named, "options": {}}})
    encoders, _ = read_encoders(["convnet_d3", "test_byobnet"], "--transfer")
    groups = group_sets({"one": one, "other": other}, encoders)
    assert {(group.encoder, *group.sets) for group in groups} == {
        ("convnet_d3", "one", "other"),
        ("test_byobnet", "one", "other"),
    }
    assert len({group.base for group in groups}) == 1  # one matrix
    by_encoder = {group.encoder: group for group in groups}
    assert by_encoder["convnet_d3"].study.model.image_encoder.options == {"img_size": 16, "width": 8}
    assert not by_encoder["test_byobnet"].study.model.image_encoder.pretrained
    assert by_encoder["convnet_d3"].made_with == {"one": "convnet_d3", "other": "test_byobnet"}


def test_pixels_arrive_on_the_other_encoders_scale(task: StudyTask, set_folder: Path, tmp_path: Path) -> None:
    saved = DistilledSet.load(set_folder)
    scale = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    other = load(task.study, tmp_path, **{"model.image_encoder": {**OTHER, **scale}})
    expected = (saved.images - torch.tensor(scale["mean"]).view(3, 1, 1)) / torch.tensor(scale["std"]).view(3, 1, 1)
    assert torch.allclose(saved.pairs(other).images, expected, atol=1e-6)


# --- faults before work -------------------------------------------------------------------------------------------


def test_invalid_sets_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)2 faults found.*one is not a distilled set.*two is not a distilled set"):
        load_sets([str(tmp_path / "one"), str(tmp_path / "two")], tmp_path)


def test_evaluate_tells_wrong_options_and_wrong_models_at_once(set_folder: Path, tmp_path: Path) -> None:
    wrong = ["--coresets", "herdin", "--lr-student", "0.1", "--transfer", "convnet_d4,convnet_d3=nowhere.safetensors"]
    result = run("evaluate", set_folder, "--workspace", tmp_path / "workspace", *wrong)
    assert result.exit_code == EXIT_USER_ERROR
    assert "4 faults found" in result.stderr
    assert "no coreset method 'herdin' (did you mean 'herding'?)" in result.stderr
    assert "--lr-student: got '0.1'; allowed: two numbers above 0" in result.stderr
    assert "no timm model is called 'convnet_d4' (did you mean 'convnet_d3'?)" in result.stderr
    assert "no such file: nowhere.safetensors" in result.stderr


@pytest.mark.parametrize("given", ["0,1", "-1,1", "nan,1", "inf,1", "1,2,3", "", "a,b"])
def test_rates_of_students_are_two_positive_numbers(set_folder: Path, tmp_path: Path, given: str) -> None:
    result = run("evaluate", set_folder, "--workspace", tmp_path / "workspace", "--lr-student", given)
    assert result.exit_code == EXIT_USER_ERROR
    assert f"--lr-student: got {given!r}" in result.stderr


def test_evaluate_on_one_encoder_and_on_several_exclude_each_other(set_folder: Path, tmp_path: Path) -> None:
    both = ["--image-encoder", "convnet_d3", "--transfer", "convnet_d3"]
    result = run("evaluate", set_folder, "--workspace", tmp_path / "workspace", *both)
    assert result.exit_code == EXIT_USER_ERROR
    assert "--image-encoder: given together with --transfer" in result.stderr


def test_a_breakdown_is_of_one_encoder(set_folder: Path, tmp_path: Path) -> None:
    both = ["--breakdown", "--transfer", "convnet_d3"]
    result = run("evaluate", set_folder, "--workspace", tmp_path / "workspace", *both)
    assert result.exit_code == EXIT_USER_ERROR
    assert "--breakdown: given together with --transfer" in result.stderr


def test_coreset_tells_wrong_words_and_a_wrong_study_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY_STUDY))
    wrong = ["--method", "herdin", "--pairs", "1,400,x", "--set", "model.image_encoder.name=convnet_d4"]
    result = run("coreset", file, "--workspace", tmp_path / "workspace", *wrong)
    assert result.exit_code == EXIT_USER_ERROR
    assert "5 faults found" in result.stderr
    for told in ("'herdin'", "got '1'", "got 'x'", "got 400; allowed: 2 to 40", "'convnet_d4'"):
        assert told in result.stderr


@pytest.mark.parametrize("option", ["--method", "--pairs"])
def test_coreset_refuses_an_empty_list(tmp_path: Path, option: str) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY_STUDY))
    result = run("coreset", file, "--workspace", tmp_path / "workspace", option, " , ")
    assert result.exit_code == EXIT_USER_ERROR
    assert f"{option}: no " in result.stderr


# --- the commands at work -----------------------------------------------------------------------------------------


@pytest.mark.timeout(600)  # it starts Ray
def test_a_matrix_beside_coresets_and_the_bound(set_folder: Path, tmp_path: Path, kept_actors: None) -> None:
    file = tmp_path / "narrow.yaml"
    file.write_text(yaml.safe_dump({**OTHER, "name": "test_byobnet", "options": {}}))
    asked = ["--transfer", f"convnet_d3,{file}", "--coresets", "random", "--students", "2", "--split", "val"]
    result = run("evaluate", set_folder, "--workspace", tmp_path / "workspace", *asked, "--json")
    assert result.exit_code == 0, result.output
    found = last_object(result)
    for kind in ("sets", "coresets", "full_data"):
        assert [row["image_encoder"] for row in found[kind]] == ["convnet_d3", "test_byobnet"]
        assert all(row["num_students"] == 2 and row["interval"]["mean_recall"] is None for row in found[kind])
        assert [row["measured_on"][2] for row in found[kind]] == ["convnet_d3", "test_byobnet"]
        assert len({row["base"] for row in found[kind]}) == 1 and all(row["fingerprints"] for row in found[kind])
    assert all(row["made_with"] == "convnet_d3" and row["num_pairs"] == 6 for row in found["sets"])
    assert [(row["method"], row["num_pairs"]) for row in found["coresets"]] == [("random", 6)] * 2
    assert found["command"].startswith("rayvldd evaluate ") and found["sets"][1]["trained_with"] == "test_byobnet"
    assert [row["share_of_full_data"] for row in found["full_data"]] == [1, 1]
    assert "6 pairs, random" in result.stderr and "all pairs" in result.stderr and "made with" in result.stderr


@pytest.mark.timeout(600)
def test_other_text_encoders_make_columns_of_the_matrix(set_folder: Path, tmp_path: Path, kept_actors: None) -> None:
    width = DistilledSet.load(set_folder).texts.shape[1]
    own, same, narrow = f"hashed_ngrams:{width}", f"hashed_ngrams:{width}", "hashed_ngrams:24"
    asked: list[str | Path] = ["--workspace", tmp_path / "workspace", "--students", "1", "--no-full-data", "--json"]
    result = run("evaluate", set_folder, "--text-encoder", f"{own},{narrow}", *asked)
    assert result.exit_code == 0, result.output
    first, second = last_object(result)["sets"]
    assert (first["trained_with"], second["trained_with"]) == (f"convnet_d3, {same}", f"convnet_d3, {narrow}")
    assert first["text_conversion"] is None and second["text_conversion"].startswith("a linear map from ")
    assert first["base"] == second["base"] and first["fingerprints"] != second["fingerprints"]
    assert f"note: {set_folder} on convnet_d3, {narrow}: a linear map from" in result.stderr
    nearest = run("evaluate", set_folder, "--text-encoder", narrow, "--texts", "nearest", *asked)
    (row,) = last_object(nearest)["sets"]
    assert row["text_conversion"].startswith("embeddings of the nearest real captions, ")
    refused = run("evaluate", set_folder, "--text-encoder", narrow, "--texts", "as_is", *asked)
    assert refused.exit_code == EXIT_USER_ERROR
    assert f"--texts: as_is, for {width} dimensions of the set and 24 of" in " ".join(refused.output.split())


@pytest.mark.timeout(600)
def test_a_breakdown_and_the_published_rows_stand_apart(set_folder: Path, tmp_path: Path, kept_actors: None) -> None:
    asked = [
        "--breakdown",
        "--robustness",
        "--reference",
        "--no-full-data",
        "--students",
        "1",
        "--split",
        "val",
        "--json",
    ]
    result = run("evaluate", set_folder, "--workspace", tmp_path / "workspace", *asked)
    assert result.exit_code == 0, result.output
    found = last_object(result)
    assert found["full_data"] == [] and found["sets"][0]["share_of_full_data"] is None
    (lost,) = found["breakdown"]
    assert lost["measured_on"] == found["sets"][0]["measured_on"]
    by_length = [row for row in lost["recalls"] if row["by"] == "length"]
    assert sum(row["num_captions"] for row in by_length) == 60  # 12 images, five captions each
    weighted = sum(row["num_captions"] * row["recall"][str(set_folder)] for row in by_length) / 60
    recalls = found["sets"][0]["mean"]
    assert weighted == pytest.approx(np.mean([recalls[f"text_to_image_r{k}"] for k in (1, 5, 10)]))
    assert {share["name"] for share in lost["subjects"][str(set_folder)]} >= {"female only", "male only", "neither"}
    assert {row["source"] for row in found["published"]} >= {"Wu et al.", "LoRS", "RepBlend", "MDM", "PTM-ST", "AMD"}
    assert "Published, not measured here" in result.stderr
    (robust,) = found["further"]
    cells = {(row["trained_on"], row["probe"]): row["mean"] for row in robust["scores"]}
    stored = f"{set_folder}, stored as 8-bit PNG"
    assert {name for name, _ in cells} == {str(set_folder), stored}
    assert {probe for _, probe in cells} == {"as it is", "JPEG 75", "4 bits", "noise 0.01"}
    assert cells[str(set_folder), "as it is"] == pytest.approx(recalls["mean_recall"])
    assert [row["distilled_set"] for row in found["sets"]] == [str(set_folder)]
    assert "JPEG" in result.stderr  # a title of the table; its cells are wrapped where the path of the set is long


@pytest.mark.timeout(600)
def test_coresets_are_scored_and_written_as_sets(tmp_path: Path, kept_actors: None) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY_STUDY))
    asked: list[str | Path] = [
        "--method",
        "k_means,forgetting",
        "--pairs",
        "4,6",
        "--students",
        "1",
        "--out",
        tmp_path / "sets",
    ]
    result = run("coreset", file, "--workspace", tmp_path / "workspace", *asked, "--split", "val", "--json")
    assert result.exit_code == 0, result.output
    found = last_object(result)
    keys = [(row["num_pairs"], row["method"]) for row in found["coresets"]]
    assert keys == [(4, "k_means"), (4, "forgetting"), (6, "k_means"), (6, "forgetting")]
    assert found["full_data"]["share_of_full_data"] == 1
    assert {path.name for path in (tmp_path / "sets").iterdir()} == {f"{m}_{n}" for n, m in keys}
    assert len(DistilledSet.load(tmp_path / "sets" / "forgetting_6")) == 6
    assert is_made_set(tmp_path / "workspace", tmp_path / "sets" / "forgetting_6")


# --- sets in order ------------------------------------------------------------------------------------------------


@pytest.fixture
def next_set(task: StudyTask, set_folder: Path) -> Path:
    """Five other real pairs, for a second phase."""
    folder = set_folder.parent / "five"
    coreset = choose_coreset(task, "random", 5, seed=2, training=expert_training(task.study))
    coreset_as_set(task.study, task, coreset, "random", 2, rate_of(0.2)).save(folder)
    return folder


def test_sets_that_cannot_be_trained_on_in_order_are_refused(set_folder: Path, next_set: Path, tmp_path: Path) -> None:
    workspace: list[str | Path] = ["--workspace", tmp_path / "workspace"]
    wrong = ["--in-order", "--later-rate", "-1", "--breakdown", "--privacy", "--coresets", "randm"]
    result = run("evaluate", set_folder, *workspace, *wrong)
    assert result.exit_code == EXIT_USER_ERROR
    printed = " ".join(result.stderr.split())
    assert "5 faults found" in printed and "no coreset method 'randm'" in printed
    assert "--in-order: one set; allowed: two or more sets" in printed
    assert "--later-rate: got -1; allowed: a number above 0" in printed
    for option in ("--breakdown", "--privacy"):
        assert f"{option}: given together with --in-order; allowed: sets one by one, without --in-order" in printed
    other = next_set.parent / "other"
    with_card(DistilledSet.load(next_set), **{"model.width": 24, "evaluation.epochs": 9}).save(other)
    result = run("evaluate", set_folder, other, *workspace, "--in-order", "--trust")
    assert result.exit_code == EXIT_USER_ERROR
    printed = " ".join(result.stderr.split())
    assert f"{other}/card.json: model.width: is 24, but 16 in {set_folder}" in printed
    assert f"{other}/card.json: evaluation.epochs: is 9, but " in printed
    result = run("evaluate", set_folder, next_set, *workspace, "--later-rate", "0.1")
    assert result.exit_code == EXIT_USER_ERROR and "--later-rate: given without --in-order" in result.stderr
    assert not (tmp_path / "workspace").exists()


@pytest.mark.timeout(600)
def test_sets_in_order_are_one_row_beside_baselines_of_the_sum_of_pairs(
    task: StudyTask, set_folder: Path, next_set: Path, tmp_path: Path, kept_actors: None
) -> None:
    workspace = tmp_path / "workspace"
    study = StudyFolder(workspace / "studies" / task.study.name)
    study.trials.mkdir(parents=True)
    study.settings.write_text("{}")
    name = f"{set_folder}, then {next_set} (later rates times 0.5)"
    asked: list[str | Path] = ["evaluate", set_folder, next_set, "--in-order", "--later-rate", "0.5"]
    asked += ["--workspace", workspace, "--coresets", "random", "--students", "2", "--split", "test"]
    planned = run(*asked, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    plan = last_object(planned)["plan"]
    assert plan[f"{name} on convnet_d3"] == "2 students, scored on test"
    assert plan["random on convnet_d3"].startswith("2 students on 11 real pairs each")

    result = run(*asked, "--json")
    assert result.exit_code == 0, result.output
    found = last_object(result)
    (row,), (real,), (bound,) = found["sets"], found["coresets"], found["full_data"]
    assert (row["distilled_set"], row["num_pairs"], row["later_rate"]) == (name, 11, 0.5)
    assert [(one["distilled_set"], one["num_pairs"], one["lr_student_text"]) for one in row["in_order"]] == [
        (str(set_folder), 6, pytest.approx(0.1)),
        (str(next_set), 5, pytest.approx(0.1)),
    ]
    assert "lr_student_image" not in row and real["num_pairs"] == 11 and bound["sets"] == [name]
    assert [(one["distilled_set"], one["coreset"]) for one in found["differences"]] == [(name, "11 pairs, random")]
    assert f"trained in order: {set_folder} (6 pairs, rates 0.1 and 0.1), then {next_set}" in result.stderr

    first, second = (DistilledSet.load(folder).pairs(task) for folder in (set_folder, next_set))
    second = dataclasses.replace(second, lr_image=0.5 * second.lr_image, lr_text=0.5 * second.lr_text)
    seeds = seeds_of_students(task.study, "test", 2)
    students = evaluate_pairs(task, PairsInOrder([first, second]), task.test, task.study.evaluation, seeds)
    assert row["mean"] == pytest.approx(summary_of_students(students).mean)
    assert json.loads(study.test_log.read_text())["num_sets"] == 1, "one row of the study, although it has two sets"

    _, (kept,), unread = kept_scores(workspace / "scores")
    assert not unread and kept.sets[0].in_order[1].num_pairs == 5
    (group,) = comparable_sets([], [], [kept])
    assert ("distilled", 11, "six, then five (later rates times 0.5)") in {
        (point.kind, point.num_pairs, point.name) for point in group.points
    }


# --- other numbers of pairs, and the order of encoders -------------------------------------------------------------


@pytest.mark.timeout(600)
def test_scaling_distils_each_number_once_and_scores_all(tmp_path: Path, kept_actors: None) -> None:
    file, workspace = tmp_path / "tiny.yaml", tmp_path / "workspace"
    file.write_text(yaml.safe_dump(TINY_STUDY))
    asked: list[str | Path] = [
        "scaling",
        file,
        "--workspace",
        workspace,
        "--students",
        "1",
        "--tracker",
        "files",
        "--json",
    ]
    assert run(*asked, "--pairs", "3,5", "--dry-run").exit_code == 0 and not (workspace / "studies").exists()
    refused = run(*asked, "--pairs", "3,x,1", "--coresets", "randm")
    assert refused.exit_code == EXIT_USER_ERROR
    assert all(words in " ".join(refused.output.split()) for words in ("got 'x'", "got '1'", "'randm'"))
    result = run(*asked, "--pairs", "5,3")
    assert result.exit_code == 0, result.output
    found = last_object(result)
    assert [row["num_pairs"] for row in found["sets"]] == [3, 5]
    assert sorted((row["method"], row["num_pairs"]) for row in found["coresets"]) == [("random", 3), ("random", 5)]
    assert len(found["full_data"]) == 1 and "Mean recall on val (%) by number of pairs" in result.stderr
    made = [Path(row["distilled_set"]) for row in found["sets"]]

    states = [folder.parent / "checkpoint" / "progress.json" for folder in made]
    before = [state.read_bytes() for state in states if state.is_file()]
    again = run(*asked, "--pairs", "3,5", "--no-full-data")
    assert again.exit_code == 0, again.output
    assert [row["num_pairs"] for row in last_object(again)["sets"]] == [3, 5]
    assert len(before) == 2 and [state.read_bytes() for state in states] == before
    assert last_object(again)["sets"][0]["mean"] == found["sets"][0]["mean"]


@pytest.mark.timeout(600)
def test_scaling_warns_of_sets_that_are_their_starting_pairs(tmp_path: Path, kept_actors: None) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY_STUDY))
    still = ("--set", "distillation.lr_image=1e-9", "--set", "distillation.lr_text=1e-9")
    options = ("--pairs", "3", "--students", "1", "--tracker", "files", "--no-full-data", "--json")
    result = run("scaling", file, "--workspace", tmp_path / "workspace", *options, *still)
    assert result.exit_code == 0, result.output
    values = last_object(result)
    ((place, warning),) = values["warnings"].items()
    assert place == values["sets"][0]["distilled_set"]
    assert "so the set is its 3 starting pairs" in warning and "try distillation.lr_image=1e-08" in warning
    assert f"3 pairs: {place}\n  WARNING: {warning}.\n" in result.stderr


@pytest.mark.long  # six encoders, each with processes, features and a bound of its own
@pytest.mark.timeout(900)
def test_the_order_of_six_encoders_is_compared_with_that_of_all_pairs(
    set_folder: Path, tmp_path: Path, kept_actors: None
) -> None:
    encoders = []
    options: dict[str, dict[str, Any]] = {"convnet_d3": {"img_size": 16, "width": 4}, "test_vit": {"img_size": 16}}
    for name in ("test_byobnet", "test_efficientnet", "test_nfnet", "test_resnet", "test_vit", "convnet_d3"):
        settings: dict[str, Any] = {**OTHER, "options": options.get(name, {})}
        encoders.append(tmp_path / f"{name}.yaml")
        encoders[-1].write_text(yaml.safe_dump({**settings, "name": name}))
    asked = ["--transfer", ",".join(map(str, encoders)), "--students", "1", "--coresets", "random", "--json"]
    result = run("evaluate", set_folder, "--workspace", tmp_path / "workspace", *asked)
    assert result.exit_code == 0, result.output
    found = last_object(result)
    (ranks,) = found["further"]
    of_set, of_coreset = ranks["scores"]
    assert of_set["trained_on"] == str(set_folder) and of_coreset["trained_on"] == "6 pairs, random"
    mean = {kind: [row["mean"]["mean_recall"] for row in found[kind]] for kind in ("sets", "coresets", "full_data")}
    assert of_set["mean"] == pytest.approx(spearman(mean["sets"], mean["full_data"]))
    assert of_coreset["mean"] == pytest.approx(spearman(mean["coresets"], mean["full_data"]))
    assert ranks["notes"] == ["a random order of 6 encoders reaches 0.83 in 5 % of cases"]
    assert "Rank correlation (Spearman) of 6 encoders" in result.stderr
