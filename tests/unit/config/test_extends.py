"""Study files that extend another: merged and replaced values, and the file that a fault names."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rayvldd.config.loading import dump_study, load_study
from rayvldd.config.settings import BlipData, FolderData
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError

BASE: dict[str, Any] = {
    "name": "base",
    "data": {"source": "karpathy", "root": "/here", "annotations": "base.json", "image_size": 64},
    "model": {
        "protocol": "lora",
        "image_encoder": {"name": "any", "options": {"pad_type": "same"}},
        "text_encoder": {"pooling": "hashed_ngrams"},
        "lora": {"rank": 2, "targets": ["qkv", "proj"]},
    },
    "experts": {"epochs": 5},
    "evaluation": {"proxy_epochs": 7},
    "search": {
        "num_trials": 9,
        "space": {
            "distillation.lr_image": {"type": "float", "low": 10, "high": 1000, "log": True},
            "distillation.lr_text": {"type": "float", "low": 10, "high": 1000},
            "model.lora.rank": {"type": "choice", "values": [2, 4]},
        },
        "initial_points": [{"distillation.lr_image": 30.0, "distillation.lr_text": 40.0, "model.lora.rank": 2}],
        "objectives": ["val_mean_recall", "seconds"],
        "scheduler": "none",
        "choose": {"at_most": {"seconds": 60}},
    },
}


def written(folder: Path, **files: dict[str, Any] | str) -> Path:
    """Write study files; the path of the last one."""
    for name, values in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


def extending(folder: Path, **own: Any) -> Study:
    return load_study(written(folder, base=BASE, own={"extends": "base.yaml", **own}))


def faults_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides)
    return [str(fault).replace(f"{path.parent}/", "") for fault in caught.value.faults]


def test_a_file_that_states_nothing_is_the_other_one(tmp_path: Path) -> None:
    assert extending(tmp_path) == load_study(tmp_path / "base.yaml")


def test_sections_are_merged_and_values_replaced(tmp_path: Path) -> None:
    base = load_study(written(tmp_path, base=BASE))
    study = extending(
        tmp_path,
        name="own",
        data={"image_size": 96},
        model={"lora": {"targets": ["fc"]}, "image_encoder": {"options": {"depth": 3}}},
        evaluation={"proxy_epochs": None},
        search={"num_trials": 4},
        experts=None,
    )
    assert (study.name, study.data.image_size, study.data.source) == ("own", 96, "karpathy")
    assert study.model.lora.rank == 2 and study.model.lora.targets == ("fc",), "a list is a value"
    assert study.model.image_encoder.options == {"depth": 3}, "so is a setting that is a mapping"
    assert study.evaluation.proxy_epochs is None and study.search.num_trials == 4
    assert study.search.space == base.search.space and study.experts == base.experts


def test_another_source_of_the_data_replaces_the_section(tmp_path: Path) -> None:
    data = extending(tmp_path, data={"source": "blip", "root": "/there"}).data
    assert isinstance(data, BlipData) and data == BlipData(source="blip", root="/there")
    faults = faults_of(written(tmp_path, base=BASE, own={"extends": "base.yaml", "data": {"source": "folder"}}))
    assert faults == ["own.yaml: data.root: is missing; allowed: a value: this key has no default"]


def test_domains_are_added_replaced_and_left_out(tmp_path: Path) -> None:
    space = {
        "distillation.lr_image": {"type": "choice", "values": [20.0, 30.0]},
        "distillation.lr_text": None,
        "distillation.momentum": {"type": "float", "low": 0, "high": 0.9},
    }
    study = extending(tmp_path, search={"space": space})
    assert list(study.search.space) == ["distillation.lr_image", "model.lora.rank", "distillation.momentum"]
    assert str(study.search.space["distillation.lr_image"]) == "20.0, 30.0"
    assert study.search.initial_points == ({"distillation.lr_image": 30.0, "model.lora.rank": 2},)


def test_initial_points_replace_those_of_the_other_file(tmp_path: Path) -> None:
    study = extending(tmp_path, search={"initial_points": [{"model.lora.rank": 4}]})
    assert study.search.initial_points == ({"model.lora.rank": 4},)


def test_a_constant_pins_a_setting_that_the_other_file_searches(tmp_path: Path) -> None:
    study = extending(tmp_path, model={"lora": {"rank": 4}})
    assert study.model.lora.rank == 4 and "model.lora.rank" not in study.search.space
    assert study.search.initial_points == ({"distillation.lr_image": 30.0, "distillation.lr_text": 40.0},)


def test_a_constant_beside_an_own_domain_stays_a_constant(tmp_path: Path) -> None:
    domain = {"type": "int", "low": 2, "high": 8}
    study = extending(tmp_path, model={"lora": {"rank": 4}}, search={"space": {"model.lora.rank": domain}})
    assert study.model.lora.rank == 4 and str(study.search.space["model.lora.rank"]) == "2 to 8"


def test_several_levels_in_several_folders_and_overrides_on_top(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    written(tmp_path, base=BASE)
    middle = {"extends": "../base.yaml", "name": "middle", "seed": 3, "search": {"num_trials": 5}}
    written(tmp_path / "deep", middle=middle)
    top = written(tmp_path, top={"extends": "deep/middle.yaml", "name": "top", "data": {"root": "/there"}})
    study = load_study(top, ["search.num_trials=2", "model.lora.rank=4"])
    assert (study.name, study.seed, study.search.num_trials, study.model.lora.rank) == ("top", 3, 2, 4)
    assert "model.lora.rank" not in study.search.space
    again = written(tmp_path, again=dump_study(study))
    assert load_study(again) == study and "extends" not in again.read_text()


def test_each_fault_names_the_file_that_states_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_PLACE", raising=False)
    base = {
        **BASE,
        "experts": {"lr_imgs": 1, "epochs": 0},
        "data": {**BASE["data"], "annotations": "${NO_SUCH_PLACE}", "image_size": 3},
        "search": {**BASE["search"], "initial_points": [{"distillation.lr_image": 5.0}]},
    }
    own = {"extends": "base.yaml", "seed": -1, "data": {"image_size": 4}, "model": {"width": 2, "dropout": 0.1}}
    assert sorted(fault.partition("; ")[0] for fault in faults_of(written(tmp_path, base=base, own=own))) == [
        "base.yaml: data.annotations: the environment variable NO_SUCH_PLACE is not set",
        "base.yaml: experts.epochs: input should be greater than or equal to 1, got 0",
        "base.yaml: experts.lr_imgs: unknown key 'lr_imgs' (did you mean 'lr_image'?)",
        "own.yaml: data.image_size: input should be greater than or equal to 16, got 4",
        "own.yaml: model.width: input should be greater than or equal to 8, got 2",
        "own.yaml: seed: input should be greater than or equal to 0, got -1",
    ]


def test_faults_of_the_space_name_their_file_too(tmp_path: Path) -> None:
    space = {
        "distillation.lr_image": {"type": "float", "low": 100, "high": 1000},
        "distillation.lr_imgs": {"type": "float", "low": 1, "high": 2},
    }
    path = written(tmp_path, base=BASE, own={"extends": "base.yaml", "search": {"space": space}})
    assert sorted(fault.partition("; ")[0] for fault in faults_of(path)) == [
        "base.yaml: search.initial_points[0]: distillation.lr_image=30.0 is outside its domain",
        "own.yaml: search.space.distillation.lr_imgs: not a searchable setting (did you mean 'distillation.lr_image'?)",
    ]


def test_a_key_that_an_override_sets_is_not_blamed_on_the_other_file(tmp_path: Path) -> None:
    path = written(tmp_path, base=BASE, own={"extends": "base.yaml"})
    assert faults_of(path, "data.image_size=2") == [
        "own.yaml: data.image_size: input should be greater than or equal to 16, got 2"
    ]


def test_a_circle_is_refused_with_its_files(tmp_path: Path) -> None:
    files = {name: {"extends": f"{other}.yaml"} for name, other in (("b", "c"), ("c", "b"), ("a", "b"))}
    (fault,) = faults_of(written(tmp_path, **files))
    assert fault == (
        "c.yaml: extends: the files extend each other in a cycle: a.yaml -> b.yaml -> c.yaml -> b.yaml; "
        "allowed: a file that does not extend this one"
    )
    (fault,) = faults_of(written(tmp_path, own={"extends": "own.yaml"}))
    assert "in a cycle: own.yaml -> own.yaml" in fault


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("bsae.yaml", "own.yaml: extends: no such study file 'bsae.yaml' (did you mean 'base.yaml'?)"),
        (["base.yaml"], "own.yaml: extends: is ['base.yaml']; allowed: the path of one study file, relative to"),
        (None, "own.yaml: extends: is None; allowed: the path of one study file, relative to"),
        ("list.yaml", "list.yaml: is of type list; allowed: a mapping with the keys of a study"),
        ("torn.yaml", "torn.yaml line 2: not readable as YAML"),
    ],
)
def test_invalid_base_files(tmp_path: Path, named: Any, expected: str) -> None:
    (fault,) = faults_of(written(tmp_path, base=BASE, list="- a\n", torn="a: [1\n", own={"extends": named}))
    assert fault.startswith(expected)


def test_a_misspelt_extends_is_recognised(tmp_path: Path) -> None:
    faults = faults_of(written(tmp_path, base=BASE, own={"extend": "base.yaml"}))
    assert any(fault.startswith("own.yaml: extend: unknown key 'extend' (did you mean 'extends'?)") for fault in faults)


# --- without a file -----------------------------------------------------------------------------------------------


def test_a_study_from_a_mapping_is_the_study_of_the_file(tmp_path: Path) -> None:
    assert load_study(BASE) == load_study(written(tmp_path, base=BASE))
    assert BASE["search"]["space"]["distillation.lr_text"]["low"] == 10, "the mapping is left as it is"


def test_sections_may_be_objects(tmp_path: Path) -> None:
    base = load_study(BASE)
    values = {**BASE, "model": base.model, "data": FolderData(source="folder", root=str(tmp_path))}
    study = load_study({**values, "search": {**BASE["search"], "initial_points": ({"model.lora.rank": 4},)}})
    assert study.model == base.model and isinstance(study.data, FolderData) and study.data.root == str(tmp_path)
    study = load_study(BASE, {"data.root": tmp_path, "model.lora": base.model.lora, "model.lora.targets": ("fc",)})
    assert study.model.lora.rank == 2 and study.model.lora.targets == ("fc",)


def test_a_mapping_may_extend_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, base=BASE)
    monkeypatch.chdir(tmp_path)
    assert load_study({"extends": "base.yaml", "seed": 5}).seed == 5


def test_overrides_by_value_and_by_text_are_the_same() -> None:
    by_value = load_study(BASE, {"distillation.lr_image": 50.0, "search.space.model.lora.rank.values": [2, 8]})
    assert by_value == load_study(BASE, ["distillation.lr_image=5e1", "search.space.model.lora.rank.values=[2, 8]"])
    assert "distillation.lr_image" not in by_value.search.space
    assert by_value == load_study(BASE).override(
        {"distillation.lr_image": 50.0, "search.space.model.lora.rank.values": [2, 8]}
    )


def test_override_leaves_the_study_as_it_is_and_checks_the_other() -> None:
    study = load_study(BASE)
    other = study.override({"name": "other", "search.num_trials": 3})
    assert (other.name, other.search.num_trials, study.name, study.search.num_trials) == ("other", 3, "base", 9)
    assert other.override({}) == other and study.override(["name=other", "search.num_trials=3"]) == other
    with pytest.raises(ConfigError) as caught:
        study.override({"experts.epochs": 0, "distillation.lr_imgs": 1, "name.first": 2, "data.root": "${UNSET_PLACE}"})
    faults = [str(fault).partition("; ")[0] for fault in caught.value.faults]
    assert faults == [
        "override name.first: 'name' is a value, not a section with keys",
        "<dict>: data.root: the environment variable UNSET_PLACE is not set",
        "<dict>: experts.epochs: input should be greater than or equal to 1, got 0",
        "<dict>: distillation.lr_imgs: unknown key 'lr_imgs' (did you mean 'lr_image'?)",
    ]
    assert "rayvldd check" not in str(caught.value)
