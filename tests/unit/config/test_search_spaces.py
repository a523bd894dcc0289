"""Every search space that ships loads, describes itself, and survives being written and read again."""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from helpers.paths import ROOT
from pydantic import JsonValue, ValidationError

from rayvldd.config.loading import dump_changes, dump_study, load_study
from rayvldd.config.setting import flat_settings
from rayvldd.config.study import Study
from rayvldd.config.study_files import parsed_yaml

SEARCH_SPACES = ROOT / "search_spaces"
FILES = sorted(SEARCH_SPACES.rglob("*.yaml"))

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


def test_some_search_spaces_are_found() -> None:
    assert FILES, f"no YAML file anywhere below {SEARCH_SPACES}"


@pytest.fixture(params=FILES, ids=[str(file.relative_to(SEARCH_SPACES)) for file in FILES])
def file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search space, with a value for every environment variable that it names."""
    found: Path = request.param
    for text in (other.read_text(encoding="utf-8") for other in FILES):  # a file may extend another
        for name in _VARIABLE.findall(text):
            monkeypatch.setenv(name, f"/some/place/{name.lower()}")
    return found


def test_loads_and_round_trips(file: Path, tmp_path: Path) -> None:
    study = load_study(file)
    again = tmp_path / "again.yaml"
    again.write_text(dump_study(study), encoding="utf-8")
    assert load_study(again) == study


def without_one_value(values: dict[str, JsonValue]) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """The values without each value of a section or of a domain in turn, and the name of the missing one."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            for inner, rest in without_one_value(value):
                yield f"{name}.{inner}", {**values, name: rest}
        else:
            yield name, {key: copy.deepcopy(other) for key, other in values.items() if key != name}


def is_equal(values: dict[str, JsonValue], study: Study) -> bool:
    try:
        return Study.model_validate(values) == study
    except ValidationError:
        return False


def test_its_changes_are_the_study_and_have_no_default(file: Path, tmp_path: Path) -> None:
    study, again = load_study(file), tmp_path / "again.yaml"
    text = dump_changes(study)
    again.write_text(text, encoding="utf-8")
    assert load_study(again) == study
    changes = parsed_yaml(text)
    assert isinstance(changes, dict)
    assert [key for key, rest in without_one_value(changes) if is_equal(rest, study)] == []
    assert len(flat_settings(changes)) < len(flat_settings(study.model_dump(mode="json"))) / 2


def test_is_a_search_named_after_its_file(file: Path) -> None:
    study = load_study(file)
    assert study.name == file.stem
    assert study.search.space
    for point in study.initial_points():
        assert study.at(point).search.space == {}


def test_header_gives_command_expectation_and_source(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    assert f"rayvldd sweep search_spaces/{file.relative_to(SEARCH_SPACES)}" in header
    for part in ("# Command:", "# Expect:", "# Ranges:"):
        assert part in header


def test_header_has_the_duration_or_states_that_it_was_not_run(file: Path) -> None:
    study, lines = load_study(file), file.read_text(encoding="utf-8").splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    if study.resources.gpus_per_trial:
        assert "# Expect:   not run here" in header and "# Hours:    not run here" in header
        assert "arXiv" in header, "the cost in print has a source"
    else:
        assert re.search(r"\d+\s+(#\s+)?minutes", header)


WU: dict[str, float] = {
    "syn_steps": 8,
    "expert_epochs": 1,
    "max_start_epoch": 2,
    "lr_image": 1000,
    "lr_text": 1000,
    "lr_lr": 0.01,
}
"""Wu et al., Flickr30K, 100 pairs."""
LORS: dict[str, float | str] = {
    **WU,
    "lr_image": 100,
    "lr_text": 100,
    "student_loss": "weighted_bce",
    "similarity": "low_rank",
    "lr_sim": 10,
    "sim_rank": 10,
    "sim_alpha": 3,
    "batch_size": 20,
}
"""LoRS, Flickr30K, 100 pairs."""
PUBLISHED: dict[str, Mapping[str, float | str]] = {
    "flickr30k_nfnet_bert": WU,
    "flickr30k_vit_lora_bert": WU,
    "flickr30k_clip": WU,
    "coco_nfnet_bert": WU,
    "coco_vit_lora_bert": WU,
    "flickr30k_lors": LORS,
    "flickr30k_repblend": {**LORS, "blending": 1},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_setting_is_tried_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYVLDD_FLICKR30K", "/some/place")
    monkeypatch.setenv("RAYVLDD_COCO", "/some/place")
    study = load_study(SEARCH_SPACES / f"{name}.yaml")
    first = study.at(study.first_point())
    settings = first.distillation.model_dump()
    settings |= settings.pop("trajectory_matching")
    assert {key: settings[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert (first.distillation.num_pairs, first.experts.num_experts, first.experts.epochs) == (100, 20, 10)
    assert (first.experts.lr_image, first.experts.lr_text, first.experts.batch_size) == (0.1, 0.1, 128)
    assert first.model.protocol != "lora" or first.model.lora.rank == 4


def test_every_first_point_is_in_its_space(file: Path) -> None:
    study = load_study(file)
    space = study.space
    for point in study.initial_points():
        assert all(value in space.domains[key] for key, value in point.items())
        assert set(point) == {key for key in space.domains if space.is_active(key, point)}, "nothing left to chance"


def test_variables_are_explained_in_the_header(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for name in _VARIABLE.findall(text):
        assert f"export {name}=" in text


def test_no_path_of_some_machine(file: Path) -> None:
    values = [line.split("#")[0] for line in file.read_text(encoding="utf-8").splitlines()]
    assert not [line for line in values if re.search(r":\s*[\"']?[/~]", line)]
