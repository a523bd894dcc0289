"""Conditions between settings: order, points, corners, and what constants decide; what cannot be is refused."""

from pathlib import Path
from typing import Any

import pytest
from helpers.study_files import faults_of, study_with, write

from rayvldd.config.domains import FloatDomain
from rayvldd.config.loading import dump_study, load_study
from rayvldd.config.study import Study

RANK = {"type": "int", "low": 5, "high": 40, "when": {"distillation.similarity": "low_rank"}}
SIMILAR: dict[str, Any] = {
    "distillation.sim_rank": RANK,
    "distillation.sim_alpha": {"type": "float", "low": 0.1, "high": 3, "when": {"distillation.sim_rank": [5, 40]}},
    "distillation.similarity": {"type": "choice", "values": ["identity", "low_rank"]},
    "distillation.student_loss": {
        "type": "fixed",
        "value": "weighted_bce",
        "when": {"distillation.similarity": ["low_rank", "full"]},
    },
}
"""Listed before the settings that they depend on: the order in the file does not matter."""


def without(key: str) -> dict[str, Any]:
    return {name: domain for name, domain in SIMILAR.items() if name != key}


def similar(**changes: Any) -> Study:
    space = {**SIMILAR, "distillation.student_loss": {**SIMILAR["distillation.student_loss"]}}
    space["distillation.student_loss"]["when"] = {"distillation.similarity": "low_rank"}
    return study_with({**space, **changes})


def in_order(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(points, key=lambda point: str(sorted(point.items())))


def last_parts(point: dict[str, Any]) -> dict[str, Any]:
    return {key.rpartition(".")[2]: value for key, value in point.items()}


def test_points_contain_the_active_settings() -> None:
    points = [last_parts(point) for point in similar().corners()]
    low_rank = {"similarity": "low_rank", "student_loss": "weighted_bce"}
    branches = [{**low_rank, "sim_rank": rank, "sim_alpha": alpha} for rank in (5, 40) for alpha in (0.1, 3.0)]
    assert in_order(points) == in_order([{"similarity": "identity"}, *branches])


def test_a_condition_is_about_the_constant_where_its_setting_is_not_searched() -> None:
    space = without("distillation.similarity")
    space["distillation.student_loss"]["when"] = {"distillation.similarity": "low_rank"}
    assert study_with(space).space.domains == {}
    similar = study_with(space, distillation__similarity="low_rank", distillation__student_loss="weighted_bce")
    assert similar.space.domains["distillation.sim_rank"].when == {}
    assert set(similar.space.unconditional) == {"distillation.sim_rank"}
    assert set(similar.space.drawn) == {"distillation.sim_rank", "distillation.sim_alpha"}


def test_a_large_space_is_checked_at_every_end_of_every_branch() -> None:
    names = ("lr_image", "lr_text", "lr_lr", "momentum", "lr_student_image", "lr_student_text", "ema_decay")
    floats = {f"distillation.{name}": {"type": "float", "low": 0.1, "high": 0.2} for name in names}
    corners = list(similar(**floats).corners())
    assert len(corners) < 40
    assert {corner.get("distillation.sim_alpha") for corner in corners} == {None, 0.1, 3.0}
    assert {corner["distillation.ema_decay"] for corner in corners} == {0.1, 0.2}


def test_experts_of_conditional_settings() -> None:
    space = {
        "model.protocol": {"type": "choice", "values": ["heads_only", "lora"]},
        "model.lora.rank": {"type": "choice", "values": [2, 8], "when": {"model.protocol": "lora"}},
    }
    study = study_with(space)
    parts = [last_parts(part) for part, _ in study.expert_combinations()]
    assert parts == [
        {"protocol": "heads_only"},
        {"protocol": "lora", "rank": 2},
        {"protocol": "lora", "rank": 8},
    ]
    assert [p.model.lora.rank for p in study.expert_points()] == [4, 2, 8], "heads_only keeps the constant"


def test_the_largest_value_counts_the_constant_where_some_point_keeps_it() -> None:
    rank = {"type": "choice", "values": [2, 3], "when": {"model.protocol": "lora"}}
    protocols = {"type": "choice", "values": ["heads_only", "lora"]}
    assert study_with({"model.lora.rank": rank, "model.protocol": protocols}).largest("model.lora.rank") == 4
    assert study_with({"model.lora.rank": rank}).largest("model.lora.rank") == 3
    assert study_with({}).largest("distillation.outer_steps") == 500


def test_conditions_survive_writing_and_reading(tmp_path: Path) -> None:
    study = similar()
    (tmp_path / "again.yaml").write_text(dump_study(study), encoding="utf-8")
    assert load_study(tmp_path / "again.yaml") == study


def test_an_override_of_a_condition_decides_it(tmp_path: Path) -> None:
    space = similar().model_dump(mode="json")["search"]["space"]
    points = [{"distillation.similarity": "low_rank", "distillation.sim_rank": 5}]
    path = write(tmp_path, search={"space": space, "initial_points": points})
    pinned = load_study(path, ["distillation.similarity=identity"])
    assert pinned.space.domains == {} and pinned.initial_points() == [{}]
    assert load_study(path).initial_points() == [{**points[0], "distillation.student_loss": "weighted_bce"}]
    changed = load_study(path, ["search.space.distillation.sim_rank.when={distillation.student_loss: weighted_bce}"])
    assert changed.search.space["distillation.sim_rank"].when == {"distillation.student_loss": ("weighted_bce",)}


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (
            {"distillation.similarty": "full"},
            "'distillation.similarty' is not a setting (did you mean 'distillation.simi",
        ),
        ({"distillation.similarity": []}, "distillation.similarity has no value to compare with"),
        ({"distillation.similarity": "full"}, "distillation.similarity never is 'full'; allowed: identity, low_rank"),
        ({"distillation.lr_text": 3.0}, "distillation.lr_text has a float domain and never equals a given"),
    ],
)
def test_a_condition_without_a_sense(tmp_path: Path, when: dict[str, Any], expected: str) -> None:
    space = {
        "distillation.similarity": SIMILAR["distillation.similarity"],
        "distillation.lr_text": {"type": "float", "low": 1, "high": 3},
        "distillation.sim_rank": {**RANK, "when": when},
    }
    (fault,) = faults_of(write(tmp_path, search__space=space))
    assert fault.startswith(f"search.space.distillation.sim_rank.when: {expected}")


def test_conditions_in_a_circle(tmp_path: Path) -> None:
    space = {
        "distillation.trajectory_matching.syn_steps": {
            "type": "int",
            "low": 1,
            "high": 3,
            "when": {"distillation.sim_rank": 5},
        },
        "distillation.sim_rank": {
            "type": "int",
            "low": 5,
            "high": 9,
            "when": {"distillation.trajectory_matching.syn_steps": 2},
        },
    }
    (fault,) = faults_of(write(tmp_path, search__space=space))
    assert fault.startswith("search.space: conditions form a cycle: distillation.")


def test_a_point_with_a_setting_that_is_not_searched_there(tmp_path: Path) -> None:
    space = similar().model_dump(mode="json")["search"]["space"]
    points = [{"distillation.similarity": "identity", "distillation.sim_rank": 5}]
    (fault,) = faults_of(write(tmp_path, search={"space": space, "initial_points": points}))
    assert fault == (
        "search.initial_points[0]: distillation.sim_rank is not searched if distillation.similarity is identity; "
        "allowed: with distillation.similarity=low_rank"
    )


def test_a_branch_that_is_not_valid_is_found(tmp_path: Path) -> None:
    space = without("distillation.student_loss")
    faults = faults_of(write(tmp_path, search__space=space))
    assert any("similarity 'low_rank' needs a student_loss that reads it" in fault for fault in faults)


# --- samplers, schedulers, objectives -----------------------------------------------------------------------------

NUMBERS = {
    "distillation.lr_image": {"type": "float", "low": 1, "high": 3},
    "distillation.num_pairs": {"type": "int", "low": 10, "high": 30},
}
CHOICE = {"distillation.initialisation.texts": {"type": "choice", "values": ["real", "noise"]}}
BOTH = ["val_mean_recall", "num_pairs"]


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({"sampler": "cmaes", "space": {**NUMBERS, **CHOICE}}, "sampler: cmaes would sample choices at random: distil"),
        (
            {"sampler": "qmc", "space": CHOICE},
            "sampler: qmc would sample choices at random: distillation.initialisation.texts",
        ),
        (
            {"sampler": "cmaes", "space": {"distillation.trajectory_matching.lr_lr": NUMBERS["distillation.lr_image"]}},
            "sampler: cmaes needs 2 or more settings",
        ),
        (
            {
                "sampler": "gp",
                "space": {
                    **CHOICE,
                    "distillation.lr_text": {"type": "int", "low": 1, "high": 2, "when": {"model.protocol": "lora"}},
                    "distillation.trajectory_matching.lr_lr": {
                        "type": "int",
                        "low": 1,
                        "high": 2,
                        "when": {"distillation.initialisation.texts": "real"},
                    },
                },
            },
            "sampler: gp would sample conditional settings at random: distillation.trajectory_matching.lr_lr; "
            "allowed: tpe, curves, random",
        ),
        (
            {"sampler": "cmaes", "space": NUMBERS, "objectives": BOTH, "scheduler": "none"},
            "sampler: cmaes supports a single objective only; allowed: tpe, curves, gp, qmc, random",
        ),
        ({"scheduler": "pbt"}, "scheduler: pbt changes settings during a distillation: the result belongs"),
        ({"scheduler": "ash"}, "scheduler: unknown 'ash' (did you mean 'asha'?)"),
        (
            {"space": NUMBERS, "objectives": BOTH},
            "scheduler: asha compares trials by recall only, and would stop cheap ones; allowed: none, with the obj",
        ),
        (
            {"objectives": ["val_mean_recall", "num_pair"]},
            "objectives.1: unknown 'num_pair' (did you mean 'num_pairs'?)",
        ),
        ({"objectives": ["seconds"]}, "objectives: without a recall the smallest set wins, got seconds"),
        ({"objectives": []}, "objectives: tuple should have at least 1 item"),
        (
            {"objectives": ["val_mean_recall"] * 2, "scheduler": "none"},
            "objectives: must be distinct, got val_mean_recall, val_mean_recall",
        ),
        (
            {"space": CHOICE, "objectives": BOTH, "scheduler": "none"},
            "objectives: num_pairs is the same at every point",
        ),
        (
            {"choose": {"at_most": {"num_pairs": 100}}},
            "choose.at_most.num_pairs: num_pairs is not an objective of this study; allowed: val_mean_recall",
        ),
        (
            {"choose": {"by": "seconds"}},
            "choose.by: seconds is not an objective of this study; allowed: val_mean_recall",
        ),
        ({"choose": {"at_most": {"pairs": 100}}}, "choose.at_most.pairs: unknown 'pairs' (did you mean 'num_pairs'?)"),
        ({"choose": {"at_least": {"val_mean_recall": 200}}}, "choose.at_least.val_mean_recall: input should be less"),
    ],
)
def test_unsupported_combinations_are_rejected(tmp_path: Path, search: dict[str, Any], expected: str) -> None:
    (fault,) = faults_of(write(tmp_path, search=search))
    assert fault.startswith(f"search.{expected}")


@pytest.mark.parametrize(
    "search",
    [
        {
            "space": NUMBERS,
            "objectives": [*BOTH, "seconds"],
            "scheduler": "none",
            "choose": {"at_most": {"seconds": 9}},
        },
        {"space": NUMBERS, "sampler": "cmaes", "scheduler": "hyperband"},
        {"space": {**NUMBERS, **CHOICE}, "sampler": "gp", "scheduler": "median"},
    ],
)
def test_searches_that_can_be(tmp_path: Path, search: dict[str, Any]) -> None:
    study = load_study(write(tmp_path, search=search))
    (tmp_path / "again.yaml").write_text(dump_study(study), encoding="utf-8")
    assert load_study(tmp_path / "again.yaml") == study


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (1.5, "must be a fraction of one GPU, or a whole number of GPUs, got 1.5"),
        (1e-5, "the smallest fraction of a GPU is 0.0001, got 1e-05"),
    ],
)
def test_shares_of_a_gpu_that_ray_would_refuse(tmp_path: Path, gpus: float, expected: str) -> None:
    (fault,) = faults_of(write(tmp_path, resources__gpus_per_trial=gpus))
    assert fault == f"resources.gpus_per_trial: {expected}"
    for allowed in (0.25, 1):
        assert load_study(write(tmp_path, resources__gpus_per_trial=allowed)).resources.gpus_per_trial == allowed


AUGMENTATION, BATCH = "distillation.augmentation", "distillation.trajectory_matching.batch_size"


def test_lists_and_null_are_choices(tmp_path: Path) -> None:
    space = {
        AUGMENTATION: {"type": "choice", "values": [[], ["color"], ["color", "crop"]]},
        BATCH: {"type": "choice", "values": [None, 2], "when": {AUGMENTATION: [[], ["color"]]}},
    }
    points = [{AUGMENTATION: ["color"], BATCH: None}, {AUGMENTATION: ["color", "crop"]}]
    study = load_study(write(tmp_path, search={"space": space, "initial_points": points}))
    (tmp_path / "again.yaml").write_text(dump_study(study), encoding="utf-8")
    assert load_study(tmp_path / "again.yaml") == study
    assert study.initial_points() == [{AUGMENTATION: ("color",), BATCH: None}, {AUGMENTATION: ("color", "crop")}]
    at_first = study.at(study.first_point()).distillation
    assert (at_first.augmentation, at_first.section().model_dump()["batch_size"]) == (("color",), None)
    assert len(list(study.corners())) == 5, "the batch size is searched with two of the three lists"


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({AUGMENTATION: {"type": "choice", "values": [[], ["colr"]]}}, "unknown 'colr' (did you mean 'color'?)"),
        ({AUGMENTATION: {"type": "choice", "values": [[], []]}}, "values must be distinct"),
        ({BATCH: {"type": "choice", "values": [[2], 2]}}, "at distillation.trajectory_matching.batch_size=[2]"),
        ({BATCH: {"type": "choice", "values": [{"a": 1}, 2]}}, "a number, a text, true, false, null, or a list"),
    ],
)
def test_lists_that_a_setting_cannot_be(tmp_path: Path, space: dict[str, Any], expected: str) -> None:
    faults = faults_of(write(tmp_path, search={"space": space}))
    assert len(faults) == 1 and expected in faults[0]


def test_a_finite_space_knows_the_number_of_its_points() -> None:
    lists = {"type": "choice", "values": [[], ["color"], ["color", "crop"]]}
    steps = {"type": "int", "low": 2, "high": 8, "step": 2}
    grid = {"type": "float", "low": 1.0, "high": 2.0, "step": 0.25}
    conditional = {AUGMENTATION: lists, BATCH: {**steps, "when": {AUGMENTATION: [[], ["color"]]}}}
    for space, expected in (
        ({AUGMENTATION: lists}, 3),
        ({AUGMENTATION: lists, BATCH: steps, "distillation.lr_image": grid}, 3 * 4 * 5),
        (conditional, 2 * 4 + 1),
        ({**conditional, "distillation.lr_image": {**grid, "step": None}}, None),
        ({"distillation.lr_image": {"type": "float", "low": 3, "high": 3}}, 1),
    ):
        found = study_with(space).space
        assert found.num_points == expected
        if expected is not None:
            points = list(found.every_point())
            assert len({found.key_of(point) for point in points}) == len(points) == expected
            assert all(map(found.is_complete, points))
    found = study_with({"distillation.lr_image": {"type": "float", "low": 0.1, "high": 0.7, "step": 0.1}}).space
    assert found.key_of({"distillation.lr_image": 0.1 + 2 * 0.1}) == found.key_of({"distillation.lr_image": 0.3})


def test_a_study_has_no_more_trials_than_points() -> None:
    study = study_with({BATCH: {"type": "choice", "values": [None, 2, 3]}})
    sizes = {seeds: study.override({"search.trial_seeds": seeds}).max_trials for seeds in ("common", "own")}
    assert sizes == {"common": 3, "own": study.search.num_trials}


@pytest.mark.parametrize(("high", "low"), [(0.3, 0.0), (0.7, 0.1)])
def test_a_grid_contains_each_of_its_values(low: float, high: float) -> None:
    grid = FloatDomain(type="float", low=low, high=high, step=0.1)
    values = [grid.nth(index) for index in range(grid.num_values or 0)]
    assert len(values) == round((high - low) / 0.1) + 1 and values[-1] == high
    assert all(value in grid for value in values)


def test_further_gpus_are_refused_where_a_trial_would_leave_them_idle(tiny_study: Study) -> None:
    whole: dict[str, Any] = {"model.protocol": "full_image_encoder", "resources.gpus_per_trial": 2}
    assert tiny_study.at(whole).resources.gpus_per_trial == 2
    refused: list[tuple[dict[str, Any], str]] = [
        ({"model.protocol": "heads_only"}, "under model.protocol heads_only a step has features, not images"),
        ({"distillation.method": "expert_fit"}, "distillation.method expert_fit has no student steps"),
        ({"distillation.engine.compile": True}, "distillation.engine.compile takes a step as a whole"),
    ]
    for changes, reason in refused:
        with pytest.raises(ValueError, match=f"gpus_per_trial 2 .* but {reason}: set resources.gpus_per_trial to 1"):
            tiny_study.at({**whole, **changes})
