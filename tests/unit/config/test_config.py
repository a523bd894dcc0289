"""Study files: all faults at once, suggestions, overrides, environment, domains, and checks of the search space."""

import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.study_files import MINIMAL, faults_of, study_with, write
from pydantic import BaseModel, TypeAdapter, ValidationError

from rayvldd.config import settings
from rayvldd.config.base import Settings
from rayvldd.config.domains import ChoiceDomain, Domain, FixedDomain, FloatDomain, IntDomain
from rayvldd.config.loading import dump_changes, dump_study, load_study
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.study import ChooseSettings, SearchSettings, Study, changes_experts
from rayvldd.errors import ConfigError, DivergedError, Fault, InputError, RayvlddError, StoreError, did_you_mean

# --- faults -------------------------------------------------------------------------------------------------------


def test_all_faults_of_a_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    path = write(
        tmp_path,
        name="two words",
        seeed=3,
        data={"source": "folder", "root": "${NO_SUCH_FOLDER}/photos", "image_size": 4},
        model__protocol="loras",
        model__image_encoder__pretraned=True,
        model__text_encoder__pooling="cls",
        experts__epochs=2,
        distillation={"max_start_epoch": 9, "lr_imgs": 3.0},
        evaluation__num_students=0,
        search__space={
            "distillation.syn_stps": {"type": "int", "low": 1, "high": 4},
            "distillation.trajectory_matching.syn_steps": {"type": "int", "low": 9, "high": 1},
            "experts.lr_image": {"type": "float", "low": 0.1, "high": 1.0},
        },
    )
    shown = "\n".join(faults_of(path, "search.num_trials"))
    for expected in (
        "--set search.num_trials: has no '='",
        "data.root: the environment variable NO_SUCH_FOLDER is not set",
        "name: must consist of letters, digits, '.', '_' or '-' and start with a letter or digit, got 'two words'",
        "seeed: unknown key 'seeed' (did you mean 'seed'?)",
        "data.image_size: input should be greater than or equal to 16, got 4",
        "model.protocol: unknown 'loras' (did you mean 'lora'?); allowed: 'full_image_encoder', 'lora' or 'heads_only'",
        "model.image_encoder.pretraned: unknown key 'pretraned' (did you mean 'pretrained'?)",
        "model.text_encoder: pooling 'cls' needs a name: a local folder or a hub name",
        "distillation.lr_imgs: unknown key 'lr_imgs' (did you mean 'lr_image'?); allowed: augmentation, ",
        "evaluation.num_students: input should be greater than or equal to 1, got 0",
        "search.space.distillation.trajectory_matching.syn_steps: low <= high must hold, got (low=9, high=1)",
        "search.space.distillation.syn_stps: not a searchable setting ",
        "search.space.experts.lr_image: a float domain would need infinitely many expert sets",
    ):
        assert expected in shown


def test_an_unknown_key_is_compared_with_the_keys_of_the_chosen_source(tmp_path: Path) -> None:
    (fault,) = faults_of(write(tmp_path, data__num_trian=5))
    assert fault == (
        "data.num_trian: unknown key 'num_trian' (did you mean 'num_train'?); "
        "allowed: image_size, num_test, num_train, num_val, seed, source"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data": {"source": "foldr"}},
            "data.source: unknown 'foldr' (did you mean 'folder'?); allowed: 'toy_scenes', ",
        ),
        (
            {"data": {"root": "/x"}},
            "data.source: is missing; allowed: toy_scenes, folder, karpathy, blip, table, coco, webdataset, "
            "huggingface",
        ),
        ({"data": 5}, "data: is 5; allowed: a section with keys"),
        ({"data": {"source": "folder"}}, "data.root: is missing; allowed: a value: this key has no default"),
        ({"experts": [1]}, "experts: is [1]; allowed: a section with keys"),
        ({"seed": 1.5}, "seed: input should be a valid integer, got a number with a fractional part, got 1.5"),
        ({"search__sampler": "tpo"}, "search.sampler: unknown 'tpo' (did you mean 'tpe'?)"),
        (
            {"search__stop_without_gain": "perhaps"},
            "search.stop_without_gain: unknown 'perhaps'; allowed: true or false",
        ),
        ({"search__reduction_factor": 1}, "search.reduction_factor: input should be greater than 1, got 1"),
        ({"experts__lr_image": math.inf}, "experts.lr_image: input should be a finite number, got inf"),
        (
            {"distillation__trajectory_matching": {"min_start_epoch": 3, "max_start_epoch": 3}},
            "distillation.trajectory_matching: min_start_epoch must be below max_start_epoch, got 3 and 3",
        ),
        (
            {"distillation": {"num_pairs": 10, "trajectory_matching": {"batch_size": 20}}},
            "study: distillation.trajectory_matching.batch_size must be at most distillation.num_pairs, got 20 and 10",
        ),
        (
            {"model__protocol": "heads_only", "model__image_head": False},
            "model: image_head: false leaves no trained parameters on the image side under heads_only",
        ),
        (
            {"data": {"source": "blip", "root": "/x", "annotations": "train.json"}},
            "data: annotations must contain {split} in place of the split's name, got 'train.json'",
        ),
        (
            {
                "search__space": {
                    "distillation.trajectory_matching.lr_lr": {"type": "float", "low": 1, "hgh": 2, "high": 3}
                }
            },
            "search.space.distillation.trajectory_matching.lr_lr.hgh: unknown key 'hgh' (did you mean 'high'?); "
            "allowed: high, log, low, step, type, when",
        ),
        (
            {"search__space": {"distillation.trajectory_matching.lr_lr": {"low": 1, "high": 3}}},
            "search.space.distillation.trajectory_matching.lr_lr.type: is missing; allowed: float, int, choice, fixed",
        ),
        (
            {"search__space": {"data.seed": {"type": "int", "low": 1, "high": 3}}},
            "search.space.data.seed: not a searchable setting",
        ),
        (
            {"search__initial_points": [{"distillation.trajectory_matching.lr_lr": {"low": 1}}]},
            "search.initial_points.0.distillation.trajectory_matching.lr_lr: is {'low': 1}; "
            "allowed: a number, a text, true, false, null, or a list of these",
        ),
    ],
)
def test_one_fault(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    faults = faults_of(write(tmp_path, **changes))
    assert len(faults) == 1
    assert faults[0].startswith(expected)


def test_a_missing_file_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "quickstart.yaml").touch()
    (fault,) = faults_of(Path("search_spaces/quickstrat.yaml"))
    assert "no such study file (did you mean 'search_spaces/quickstart.yaml'?)" in fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty; allowed: a mapping with the keys of a study"),
        ("- a\n- b\n", "is of type list; allowed: a mapping with the keys of a study"),
        ("name: x\ndata: {source: toy_scenes\n", r"line 3: not readable as YAML: expected ',' or '}'"),
        ("seed: 1\ndata:\n  seed: 1\n  seed: 2\n", "line 4: not readable as YAML: duplicate key 'seed'"),
        ("name: \x00", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_study(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_half_an_emoji_as_a_key(tmp_path: Path) -> None:
    (tmp_path / "half.yaml").write_text('name: half\n"\\ud800": 1\n')
    with pytest.raises(ConfigError, match=r"half\.yaml: study: input should be a valid string") as caught:
        load_study(tmp_path / "half.yaml")
    str(caught.value).encode()


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_study(tmp_path / "study.yaml")


# --- numbers, environment, overrides ------------------------------------------------------------------------------


def test_scientific_notation_is_a_number_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump(MINIMAL)
        + "distillation: {trajectory_matching: {lr_lr: 1e-2}}\n"
        + "search:\n  space:\n    distillation.lr_image: {type: choice, values: [1e2, 1E+3, .5e3]}\n"
        + "  initial_points: [{distillation.lr_image: 1e3}]\n"
    )
    study = load_study(path, ["experts.lr_text=2e-1"])
    assert (study.distillation.of(TrajectoryMatchingSettings).lr_lr, study.experts.lr_text) == (0.01, 0.2)
    domain = study.search.space["distillation.lr_image"]
    assert isinstance(domain, ChoiceDomain) and domain.values == (100.0, 1000.0, 500.0)
    assert study.first_point() == {"distillation.lr_image": 1000.0}


def test_environment_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", "/photos")
    monkeypatch.setenv("SIDE", "96")
    root = "${PHOTOS}/flickr/${PHOTOS}"
    study = load_study(write(tmp_path, data={"source": "folder", "root": root, "image_size": "${SIDE}"}))
    assert isinstance(study.data, settings.FolderData)
    assert (study.data.root, study.data.image_size) == ("/photos/flickr//photos", 96)


def test_an_override_replaces_a_missing_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHOTOS", raising=False)
    path = write(tmp_path, data={"source": "folder", "root": "${PHOTOS}", "image_size": "${PHOTOS}"})
    assert faults_of(path, "data.image_size=96") == [
        "data.root: the environment variable PHOTOS is not set; allowed: export PHOTOS=…, or --set data.root=…"
    ]
    study = load_study(path, ["data.root=/here", "data.image_size=96"])
    assert isinstance(study.data, settings.FolderData) and study.data.root == "/here"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.num_trials", "--set search.num_trials: has no '='; allowed: --set KEY=VALUE"),
        ("=3", "--set =3: has no '='"),
        ("name.first=3", "--set name.first=3: 'name' is a value, not a section with keys"),
        ("model.lora.targets=[a", "--set model.lora.targets=[a: the value is not YAML"),
        ("search.spce.x=3", "search.spce: unknown key 'spce' (did you mean 'space'?)"),
        (
            "search.space.distillation.trajectory_matching.lr_lr.high=3",
            "search.space.distillation.trajectory_matching.lr_lr.type: is missing",
        ),
    ],
)
def test_an_override_that_cannot_be_applied(tmp_path: Path, override: str, expected: str) -> None:
    (fault,) = faults_of(write(tmp_path), override)
    assert fault.startswith(expected)


def test_overrides_reach_sections_that_the_file_leaves_out_or_empty(tmp_path: Path) -> None:
    path = write(tmp_path, search=None)
    overrides = [
        "search.num_trials=3",
        "model.lora.targets=[qkv, proj]",
        "model.image_encoder.options={pad_type: same}",
    ]
    study = load_study(path, overrides)
    assert study.search.num_trials == 3
    assert study.model.lora.targets == ("qkv", "proj")
    assert study.model.image_encoder.options == {"pad_type": "same"}


SPACE = {
    "distillation.trajectory_matching.syn_steps": {"type": "int", "low": 2, "high": 8, "step": 2},
    "distillation.trajectory_matching.lr_lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
}


def test_overrides_change_domains(tmp_path: Path) -> None:
    study = load_study(
        write(tmp_path, search__space=SPACE),
        [
            "search.space.distillation.trajectory_matching.syn_steps.high=4",
            "search.space.distillation.lr_image={type: choice, values: [10, 30]}",
        ],
    )
    assert study.search.space["distillation.trajectory_matching.syn_steps"] == IntDomain(
        type="int", low=2, high=4, step=2
    )
    assert study.search.space["distillation.lr_image"] == ChoiceDomain(type="choice", values=(10, 30))


def test_an_override_of_a_searched_setting_pins_it(tmp_path: Path) -> None:
    points = [{"distillation.trajectory_matching.syn_steps": 4, "distillation.trajectory_matching.lr_lr": 0.01}]
    path = write(tmp_path, search={"space": SPACE, "initial_points": points})
    study = load_study(path, ["distillation.trajectory_matching.syn_steps=16"])
    assert study.distillation.of(TrajectoryMatchingSettings).syn_steps == 16
    assert list(study.search.space) == ["distillation.trajectory_matching.lr_lr"]
    assert study.search.initial_points == ({"distillation.trajectory_matching.lr_lr": 0.01},)


# --- round trip ---------------------------------------------------------------------------------------------------


def test_a_study_survives_writing_and_reading(tmp_path: Path) -> None:
    space = {
        **SPACE,
        "model.lora.rank": {"type": "choice", "values": [1, 4]},
        "distillation.initialisation.texts": {"type": "choice", "values": ["real", "noise"]},
    }
    study = study_with(
        space,
        name="1e3",  # a text that looks like a number
        data={"source": "karpathy", "root": "/a: b", "annotations": "x.json"},
        model__image_encoder={
            "name": "nfnet_l0",
            "mean": [0.5, 0.5, 0.5],
            "options": {"drop": "1e2", "deep": {"a": 1}},
        },
        experts__lr_image=1e-7,
        search__initial_points=[
            {"distillation.trajectory_matching.lr_lr": 0.002, "distillation.initialisation.texts": "noise"}
        ],
        search__time_budget_s=60.5,
    )
    again = tmp_path / "again.yaml"
    again.write_text(dump_study(study), encoding="utf-8")
    assert load_study(again) == study
    assert Study.model_validate_json(study.model_dump_json()) == study
    again.write_text(dump_changes(study, ["experts.lr_image", "model.image_encoder.options"]), encoding="utf-8")
    assert load_study(again) == study


def test_changes_state_what_has_no_default_and_how_many_settings_are_left_out() -> None:
    study = Study.model_validate(MINIMAL)
    *lines, last = dump_changes(study).splitlines()
    assert yaml.safe_load("\n".join(lines)) == MINIMAL
    number = re.fullmatch(r"# (\d+) other settings have their defaults; --json has all of them\.", last)
    assert number and int(number[1]) == num_settings(study) - 5


def num_settings(section: Settings) -> int:
    inside = [*(getattr(section, name) for name in type(section).model_fields)]
    inside += (section.__pydantic_extra__ or {}).values()
    return sum(num_settings(value) if isinstance(value, Settings) else 1 for value in inside)


def test_values_of_set_are_marked_in_the_changes(tmp_path: Path) -> None:
    rate, name = "distillation.lr_image", f"{'long words ' * 12}end"
    space = {rate: {"type": "float", "low": 1, "high": 9}, "distillation.lr_text": {"type": "choice", "values": [1, 2]}}
    given = {
        f"search.space.{rate}.high": "8",
        "experts.epochs": "3",
        "model.lora.targets": "[qkv, proj]",
        "model.text_encoder.name": name,
        "seed": "0",
        "distillation.lr_text": "7",
    }
    study = load_study(write(tmp_path, search__space=space), [f"{key}={value}" for key, value in given.items()])
    text = dump_changes(study, given)
    assert Study.model_validate(yaml.safe_load(text)) == study
    marked = [line.strip() for line in text.splitlines() if "#" in line][:-1]
    assert marked[1:] == ["targets:  # --set", "epochs: 3  # --set", "lr_text: 7.0  # --set", "high: 8.0  # --set"]
    assert marked[0].endswith("end  # --set"), "the last line of a text on several lines"


@pytest.mark.parametrize("searched", [False, True])
def test_the_section_of_a_method_that_is_not_in_use_is_a_change(searched: bool) -> None:
    method = {"distillation.method": {"type": "choice", "values": ["trajectory_matching", "expert_fit"]}}
    study = study_with(method if searched else {}, distillation__expert_fit={})
    changes = yaml.safe_load(dump_changes(study))
    assert Study.model_validate(changes) == study
    assert changes.get("distillation") == (None if searched else {"expert_fit": {}})


def test_defaults_inside_a_list_of_sections_are_no_changes() -> None:
    covariance = {"image_encoders": [{"name": "resnet18"}, {"name": "resnet18", "pretrained": False}]}
    study = study_with(
        {}, model__protocol="heads_only", distillation={"method": "covariance", "covariance": covariance}
    )
    changes = yaml.safe_load(dump_changes(study))
    assert changes["distillation"] == {"method": "covariance", "covariance": covariance}
    assert Study.model_validate(changes) == study


def all_settings() -> list[type[BaseModel]]:
    classes = [value for value in vars(settings).values() if isinstance(value, type)]
    found = [value for value in classes if issubclass(value, Settings) and value is not Settings]
    return [*found, SearchSettings, ChooseSettings, Study, FloatDomain, IntDomain, ChoiceDomain, FixedDomain]


@pytest.mark.parametrize("model", all_settings(), ids=lambda model: model.__name__)
def test_every_setting_has_a_description(model: type[BaseModel]) -> None:
    assert model.__doc__
    silent = [
        name for name, field in model.model_fields.items() if not field.description and name not in ("source", "type")
    ]
    assert not silent, f"a string under each field gives meaning and unit; missing under {silent}"


# --- domains ------------------------------------------------------------------------------------------------------

DOMAINS: TypeAdapter[Any] = TypeAdapter(Domain)


@pytest.mark.parametrize(
    ("values", "inside", "outside", "shown", "corners"),
    [
        ({"type": "int", "low": 1, "high": 3}, [1, 2, 3], [0, 4, 2.5, True, "2"], "1 to 3", [1, 3]),
        ({"type": "int", "low": 4, "high": 10, "step": 3}, [4, 7, 10], [5, 11], "4 to 10 in steps of 3", [4, 10]),
        ({"type": "int", "low": 1, "high": 64, "log": True}, [1, 63], [0], "1 to 64", [1, 64]),
        ({"type": "int", "low": 5, "high": 5}, [5], [4], "5 to 5", [5]),
        ({"type": "float", "low": 0.5, "high": 2}, [0.5, 1, 2.0], [0.4, 2.1, "1", True], "0.5 to 2", [0.5, 2.0]),
        (
            {"type": "float", "low": 0, "high": 0.3, "step": 0.1},
            [0, 0.1, 0.30000000000000004 - 1e-16, 0.2],
            [0.15],
            "0 to 0.3 in steps of 0.1",
            [0.0, 0.3],
        ),
        ({"type": "float", "low": 1e-3, "high": 10, "log": True}, [0.001, 10], [0.0009], "0.001 to 10", [0.001, 10.0]),
        ({"type": "choice", "values": [2, "a", True]}, [2, "a", True], [1, "b", False], "2, a, True", [2, "a", True]),
        ({"type": "fixed", "value": True}, [True], [1, "True"], "True", [True]),
    ],
)
def test_a_domain(values: dict, inside: list, outside: list, shown: str, corners: list) -> None:
    domain = DOMAINS.validate_python(values)
    assert all(value in domain for value in inside)
    assert not any(value in domain for value in outside)
    assert str(domain) == shown
    assert domain.corners() == corners
    assert DOMAINS.validate_json(DOMAINS.dump_json(domain)) == domain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "int", "low": 3, "high": 1}, r"low <= high must hold, got \(low=3, high=1\)"),
        ({"type": "int", "low": 0, "high": 8, "log": True}, "a log range must start above 0, got low=0"),
        ({"type": "int", "low": 1, "high": 8, "step": 3}, r"low plus a multiple of step, got \(1, 8, 3\)"),
        ({"type": "int", "low": 1, "high": 9, "step": 2, "log": True}, "log and step cannot be combined"),
        ({"type": "int", "low": 1, "high": 9, "step": 0}, "greater than or equal to 1"),
        ({"type": "float", "low": -1, "high": 1, "log": True}, "a log range must start above 0, got low=-1"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.3}, "low plus a whole number of steps, got 3.33"),
        ({"type": "float", "low": 1, "high": 2, "step": 0.5, "log": True}, "log and step cannot be combined"),
        ({"type": "float", "low": 0, "high": math.inf}, "finite number"),
        ({"type": "float", "low": math.nan, "high": 1}, "finite number"),
        ({"type": "choice", "values": []}, "at least 1 item"),
        ({"type": "choice", "values": [1, 2, 1]}, r"values must be distinct, and .*, got \[1, 2, 1\]"),
        ({"type": "choice", "values": [1, True]}, "1, 1.0 and true are equal"),
        ({"type": "fixed"}, "Field required"),
        ({"type": "fixed", "value": 1, "when": "x"}, "valid dictionary"),
    ],
)
def test_a_domain_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DOMAINS.validate_python(values)


def test_all_values() -> None:
    assert IntDomain(type="int", low=2, high=8, step=3).all_values() == [2, 5, 8]
    assert ChoiceDomain(type="choice", values=("b", "a")).all_values() == ["b", "a"]


# --- points, experts, start epochs --------------------------------------------------------------------------------


def test_a_point_has_nothing_left_to_search() -> None:
    study = study_with(SPACE, search__initial_points=[{"distillation.trajectory_matching.syn_steps": 4}])
    point = study.at({**study.first_point(), "distillation.trajectory_matching.lr_lr": 0.05, "model.lora.rank": 2})
    matching = point.distillation.of(TrajectoryMatchingSettings)
    assert (matching.syn_steps, matching.lr_lr, point.model.lora.rank) == (4, 0.05, 2)
    assert point.search.space == {} and point.search.initial_points == ()
    assert point.data == study.data and point.seed == study.seed
    assert study.distillation.of(TrajectoryMatchingSettings).syn_steps == 8  # the study itself stays as it was


def test_a_point_outside_its_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        study_with({}).at({"distillation.trajectory_matching.syn_steps": 0})
    with pytest.raises(ValidationError, match="Extra inputs"):
        study_with({}).at({"distillation.syn_stps": 3})


def test_expert_points_are_the_combinations_that_change_experts() -> None:
    space = {
        **SPACE,
        "model.lora.rank": {"type": "choice", "values": [1, 4]},
        "experts.epochs": {"type": "int", "low": 6, "high": 8},
        "experts.num_experts": {"type": "int", "low": 1, "high": 3},
    }
    points = study_with(space).expert_points()
    assert [(p.model.lora.rank, p.experts.epochs) for p in points] == [(1, 6), (1, 7), (1, 8), (4, 6), (4, 7), (4, 8)]
    assert len(study_with(SPACE).expert_points()) == len(study_with({}).expert_points()) == 1


def test_settings_that_change_experts() -> None:
    assert changes_experts("model.lora.rank") and changes_experts("experts.lr_image")
    assert not changes_experts("distillation.trajectory_matching.syn_steps") and not changes_experts(
        "experts.num_experts"
    )


def test_corners_are_every_combination_of_ends() -> None:
    corners = list(study_with(SPACE).corners())
    assert sorted(tuple(corner.values()) for corner in corners) == [(2, 0.001), (2, 0.1), (8, 0.001), (8, 0.1)]
    assert list(study_with({}).corners()) == [{}]


def test_corners_of_a_large_space_are_few() -> None:
    names = ["syn_steps", "num_pairs", "expert_epochs", "outer_steps", "evaluate_every", "max_start_epoch"]
    ints = {f"distillation.{name}": {"type": "int", "low": 2, "high": 4} for name in names}
    floats = {
        f"distillation.{name}": {"type": "float", "low": 0.1, "high": 0.2}
        for name in ("lr_image", "lr_text", "lr_lr", "momentum")
    }
    study = study_with({**ints, **floats})
    corners = list(study.corners())
    assert len(corners) < 64
    assert all(set(corner) == set(study.search.space) for corner in corners)
    assert {corner["distillation.momentum"] for corner in corners} == {0.1, 0.2}


@pytest.mark.parametrize(
    "changes, fault",
    [
        (
            {"distillation__trajectory_matching__blending": 1.0},
            "distillation.trajectory_matching.blending mixes the inputs of the projection heads",
        ),
        (
            {"distillation__engine__compile": True, "model__dropout": 0.1},
            "distillation.engine.compile needs model.dropout 0, got 0.1",
        ),
        (
            {"distillation__engine": {"compile": True, "micro_batch": 4}},
            "compile: true requires whole steps: leave micro_batch out, got 4",
        ),
        (
            {"distillation__engine": {"compile": "cuda_graphs", "micro_batch": 4}},
            "compile: cuda_graphs requires whole steps: leave micro_batch out, got 4",
        ),
        (
            {"distillation__engine__compile": "cuda_graphs", "resources__gpus_per_trial": 0},
            "distillation.engine.compile cuda_graphs needs a GPU, got resources.gpus_per_trial 0: set",
        ),
        (
            {"distillation__engine__compile": "graphs"},
            "distillation.engine.compile: unknown 'graphs' (did you mean 'cuda_graphs'?); allowed: False, True or",
        ),
        (
            {"resources": {"cuda_graphs": True, "gpus_per_trial": 0, "gpus_per_expert": 0}},
            "resources.cuda_graphs needs a GPU, got resources.gpus_per_trial 0 and resources.gpus_per_expert 0: set",
        ),
        (
            {"resources__cuda_graphs": True, "model__dropout": 0.1},
            "resources.cuda_graphs needs model.dropout 0, got 0.1",
        ),
        ({"distillation__similarity": "full"}, "similarity 'full' needs a student_loss that reads it"),
    ],
)
def test_methods_that_do_not_go_together(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    (found,) = faults_of(write(tmp_path, **changes))
    assert fault in found


def test_a_start_epoch_beyond_the_experts(tmp_path: Path) -> None:
    (fault,) = faults_of(
        write(tmp_path, experts__epochs=4, distillation__trajectory_matching={"max_start_epoch": 4, "expert_epochs": 2})
    )
    assert fault == (
        "study: a segment reaches epoch 5 (max_start_epoch - 1 + expert_epochs), beyond the experts' last epoch 4: "
        "lower distillation.trajectory_matching.max_start_epoch or distillation.trajectory_matching.expert_epochs, "
        "or raise experts.epochs"
    )
    study = load_study(
        write(tmp_path, experts__epochs=5, distillation__trajectory_matching={"max_start_epoch": 4, "expert_epochs": 2})
    )
    assert study.distillation.of(TrajectoryMatchingSettings).last_epoch_read == 5


def test_a_space_that_reaches_beyond_the_experts(tmp_path: Path) -> None:
    space = {
        "distillation.trajectory_matching.max_start_epoch": {"type": "int", "low": 1, "high": 9},
        "distillation.trajectory_matching.expert_epochs": {"type": "int", "low": 1, "high": 3},
    }
    method = "distillation.trajectory_matching"
    where = f"search.space at {method}.max_start_epoch=9, {method}.expert_epochs=3: study"
    faults = faults_of(write(tmp_path, search__space=space))
    assert any(fault.startswith(f"{where}: a segment reaches epoch 11") for fault in faults)
    del space["distillation.trajectory_matching.expert_epochs"]
    assert load_study(write(tmp_path, search__space=space)).search.space


def test_settings_that_only_the_space_makes_consistent(tmp_path: Path) -> None:
    """The constants of searched settings are never used together with searched ones, so they need not fit them."""
    space = {
        "distillation.trajectory_matching.min_start_epoch": {"type": "int", "low": 2, "high": 3},
        "distillation.trajectory_matching.max_start_epoch": {"type": "int", "low": 4, "high": 6},
    }
    assert load_study(write(tmp_path, search__space=space)).search.space.keys() == space.keys()


def test_a_searched_value_out_of_its_settings_range(tmp_path: Path) -> None:
    space = {"distillation.momentum": {"type": "float", "low": 0.0, "high": 1.0}}
    (fault,) = faults_of(write(tmp_path, search__space=space))
    expected = "search.space at distillation.momentum=1.0: distillation.momentum: input should be less than 1, got 1.0"
    assert fault == expected


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (
            {"distillation.syn_step": 4},
            "'distillation.syn_step' is not searched (did you mean 'distillation.trajectory_matching.syn_steps'?)",
        ),
        (
            {"distillation.trajectory_matching.syn_steps": 3},
            "distillation.trajectory_matching.syn_steps=3 is outside its domain; allowed: 2 to 8 in steps of 2",
        ),
        (
            {"distillation.trajectory_matching.syn_steps": "4"},
            "distillation.trajectory_matching.syn_steps='4' is outside its domain",
        ),
        (
            {"distillation.trajectory_matching.lr_lr": 1},
            "distillation.trajectory_matching.lr_lr=1 is outside its domain; allowed: 0.001 to 0.1",
        ),
    ],
)
def test_an_initial_point_outside_the_space(tmp_path: Path, point: dict[str, Any], expected: str) -> None:
    path = write(
        tmp_path, search={"space": SPACE, "initial_points": [{"distillation.trajectory_matching.lr_lr": 0.01}, point]}
    )
    (fault,) = faults_of(path)
    assert fault.startswith(f"search.initial_points[1]: {expected}")


# --- errors -------------------------------------------------------------------------------------------------------


def test_the_message_lists_faults_and_the_next_command() -> None:
    error = InputError([Fault("a.yaml: b", "is 3", "1 or 2"), Fault("c", "is missing")], next_command="rayvldd check")
    assert str(error) == (
        "2 faults found, nothing was started:\n  a.yaml: b: is 3; allowed: 1 or 2\n  c: is missing\nNext: rayvldd check"
    )


@pytest.mark.parametrize(
    "error",
    [
        StoreError("the disk is full", next_command="make room"),
        DivergedError("loss is nan at step 3"),
        ConfigError([Fault("x", "is wrong")], next_command="mend it"),
    ],
)
def test_an_error_travels_between_processes_whole(error: RayvlddError) -> None:
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert vars(copied) == vars(error)


def test_did_you_mean() -> None:
    assert did_you_mean("lr_imgs", ["lr_image", "lr_text"]) == " (did you mean 'lr_image'?)"
    assert did_you_mean("zzz", ["lr_image"]) == ""
