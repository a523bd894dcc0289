"""Everyone who reads the metadata of settings, tried with every setting of a study changed.

A setting is changed past validation: what matters here is which identities change with it.
"""

import json
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from rayvldd.config.domains import FloatDomain
from rayvldd.config.methods.registry import method_names
from rayvldd.config.setting import MayChange, SettingInfo, flat_settings
from rayvldd.config.settings import ImageEncoderSettings
from rayvldd.config.study import Study, about, all_settings
from rayvldd.distillation.evaluations import PROGRESS, EvaluatedRun, Progress
from rayvldd.errors import ConfigError, StoreError
from rayvldd.experts.recipe import expert_settings
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.transfer import EarlierStudies, keep_earlier_trials, known_points
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.tracking.identity import study_identity
from rayvldd.tracking.protocol import EarlierTrial

DATA: dict[str, dict[str, Any]] = {
    "toy_scenes": {"source": "toy_scenes"},
    "folder": {"source": "folder", "root": "/here"},
    "karpathy": {"source": "karpathy", "root": "/here", "annotations": "here.json"},
    "blip": {"source": "blip", "root": "/here"},
    "table": {"source": "table", "root": "/here"},
    "coco": {"source": "coco", "root": "/here"},
    "webdataset": {"source": "webdataset", "root": "/here"},
    "huggingface": {"source": "huggingface", "name": "somebody/data"},
}


def study_on(source: str) -> Study:
    model = {"protocol": "lora", "image_encoder": {"name": "any"}, "text_encoder": {"pooling": "hashed_ngrams"}}
    methods: dict[str, Any] = {name: {} for name in method_names()}
    return Study.model_validate({"name": "study", "data": DATA[source], "model": model, "distillation": methods})


def keys_of(section: BaseModel, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in section:
        if isinstance(value, BaseModel):
            keys += keys_of(value, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


STUDIES = {source: study_on(source) for source in DATA}
CASES = [
    (source, key)
    for source in DATA
    for key in keys_of(STUDIES[source])
    if key != "data.source" and (source == "toy_scenes" or key.startswith("data."))
]


def test_every_setting_is_among_the_cases() -> None:
    assert {key for _, key in CASES} == set(all_settings()) - {"data.source"}


def test_the_same_data_from_another_source_has_the_same_experts_in_another_study() -> None:
    folder, blip, drawn = (STUDIES[source] for source in ("folder", "blip", "toy_scenes"))
    assert expert_settings(folder) == expert_settings(blip)
    assert expert_settings(folder) != expert_settings(drawn), "the images are of another size"
    assert study_identity(folder, "sweep", "") != study_identity(blip, "sweep", "")


def other_value(annotation: Any, value: Any) -> Any:
    """A value of the same type that is not the present one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if get_origin(annotation) is Literal:
        return next((option for option in get_args(annotation) if option != value), f"{value}x")
    if isinstance(value, str):
        return f"{value}x"
    if value is None:
        (kind,) = {part for part in get_args(annotation) if part is not NoneType}
        return {int: 3, float: 3.0, str: "x", bool: True}.get(kind) or (0.5, 0.5, 0.5)
    if isinstance(value, tuple):
        return value[:-1] if value else other_tuple(annotation)
    assert value == {}
    return {"search.space": {}}.get(str(annotation)) or {"x": 1}


def other_tuple(annotation: Any) -> tuple[Any, ...]:
    (item, _) = get_args(annotation)
    if item is str:
        return ("x",)
    if get_origin(item) is Literal:
        return get_args(item)[:1]
    return (0.25,) if get_args(item)[:1] == (float,) else ({"distillation.lr_image": 3.0},)


SPECIAL: dict[str, Any] = {
    "distillation.covariance.image_encoders": (ImageEncoderSettings(name="another"),),
    "evaluation.further_metrics": ("recall",),
    "search.space": {"distillation.lr_image": FloatDomain(type="float", low=1, high=2)},
    "search.choose.at_most": {"num_pairs": 3.0},
    "search.choose.at_least": {"val_mean_recall": 3.0},
    "search.objectives": ("val_mean_recall", "seconds"),
}
"""Settings with a type that does not determine another valid value."""


def changed(section: Any, key: str, whole_key: str = "") -> Any:
    """The section with another value at a dotted key."""
    name, _, rest = key.partition(".")
    value = getattr(section, name)
    if rest:
        new = changed(value, rest, whole_key or key)
    else:
        new = SPECIAL.get(whole_key or key) or other_value(type(section).model_fields[name].annotation, value)
    return section.model_copy(update={name: new})


class Case(NamedTuple):
    """A study, the same with one setting changed, and the setting's key and metadata."""

    before: Study
    after: Study
    key: str
    info: SettingInfo


def group_of(source: str, key: str) -> str:
    """The section of a setting, to its second level; of other sources than the first, the source."""
    return ".".join(key.split(".")[:-1][:2]) if source == "toy_scenes" else source


@pytest.fixture(params=sorted({group_of(*case) for case in CASES}))
def cases(request: pytest.FixtureRequest) -> list[Case]:
    """Each setting of a group changed."""
    return [case_of(source, key) for source, key in CASES if group_of(source, key) == request.param]


def case_of(source: str, key: str) -> Case:
    """The case of a setting; nothing else differs in it."""
    before, info = STUDIES[source], about(key)
    after = changed(before, key)
    flat = [flat_settings(study.model_dump(mode="json", warnings="none")) for study in (before, after)]
    differing = {name for name in flat[0].keys() | flat[1].keys() if flat[0].get(name) != flat[1].get(name)}
    assert differing and all(name == key or name.startswith(f"{key}.") for name in differing)
    assert info is not None
    return Case(before, after, key, info)


def test_identity_in_the_tracking_server(cases: list[Case]) -> None:
    for before, after, key, info in cases:
        same = study_identity(before, "rayvldd sweep a.yaml", "") == study_identity(after, "rayvldd sweep b.yaml", "")
        assert same == (info.may_change is not MayChange.NEVER), key


def test_a_study_folder_agrees_with_the_tracking_server(cases: list[Case], tmp_path: Path) -> None:
    for before, after, key, info in cases:
        folder = StudyFolder(tmp_path / key)
        folder.save_settings(before)
        for file in (None, folder.choice, folder.result_file):  # while it searches, once one is chosen, at the end
            if file:
                file.write_text("{}")
            if info.may_change.allows(chosen=file is not None, finished=file == folder.result_file):
                folder.check_same(after)
                assert study_identity(before, "sweep", "") == study_identity(after, "sweep", ""), key
                continue
            with pytest.raises(ConfigError) as caught:
                folder.check_same(after)
            assert all(fault.where.startswith(f"{folder.settings}: {key}") for fault in caught.value.faults)


def test_identity_of_the_experts(cases: list[Case]) -> None:
    for before, after, key, info in cases:
        same = expert_settings(before) == expert_settings(after)
        lora_alone = key == "model.protocol"  # leaves the adapters' settings out as well
        assert same == (not info.changes_experts or info.by_content) or lora_alone, key
        if same and info.changes_experts:
            assert key.startswith(("data.", "model.text_encoder.")) or key == "model.image_encoder.weights"


def test_adapters_count_under_lora_alone() -> None:
    study = STUDIES["toy_scenes"]
    plain = study.model_copy(update={"model": study.model.model_copy(update={"protocol": "heads_only"})})
    for key in ("model.lora.rank", "model.lora.alpha", "model.lora.targets"):
        assert expert_settings(study) != expert_settings(changed(study, key))
        assert expert_settings(plain) == expert_settings(changed(plain, key))


def test_a_recipe_is_json() -> None:
    settings = expert_settings(STUDIES["toy_scenes"])
    assert json.loads(json.dumps(settings)) == settings
    assert TypeAdapter(dict[str, Any]).validate_python(settings)["data"] == {"image_size": 32}


# --- the state of a distillation ----------------------------------------------------------------------------------


class Loop:
    """The part of the outer loop that restores a state."""

    outer_step = 0

    def __init__(self) -> None:
        self.fingerprints = {"data": "0"}

    def restore(self, path: Path) -> None:
        self.outer_step = 2

    def save(self, path: Path) -> None:
        raise NotImplementedError

    def distilled_set(self, metrics: dict[str, float] | None = None) -> Any:
        raise NotImplementedError


def test_the_state_of_a_distillation(cases: list[Case], tmp_path: Path) -> None:
    """A run resumes from a state after any change that the state does not depend on."""
    for before, after, key, info in cases:
        task = object.__new__(RetrievalTask)  # of which the identity of a state has nothing
        first = EvaluatedRun(before, task, Loop(), 3, None)
        progress = Progress(
            state="state",
            outer_step=2,
            settings=first._settings(),
            best_recall=0.0,
            start_recall=0.0,
            evaluations_below=0,
            seconds_matching=0.0,
            seconds_evaluating=0.0,
            steps=[],
        )
        (tmp_path / PROGRESS).write_text(progress.sealed().model_dump_json(), encoding="utf-8")
        (tmp_path / "state").touch()  # a state that is refused stays
        loop = Loop()
        second = EvaluatedRun(after, task, loop, 3, tmp_path)
        if key.startswith("distillation.") and info.in_state:
            with pytest.raises(StoreError, match=f"{key.removeprefix('distillation.')} was .*, is "):
                second.resume()
        else:
            assert second.resume() and loop.outer_step == 2, key


# --- trials of earlier studies ------------------------------------------------------------------------------------

PRINTS = {"data": "0", "image_encoder": "1", "text_encoder": "2"}


def test_trials_of_earlier_studies(cases: list[Case], tmp_path: Path) -> None:
    """A trial counts under any change that its recall does not depend on, or that the fingerprints represent."""
    for before, after, key, info in cases:
        folder = StudyFolder(tmp_path / key)
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in flat(before).items()}
        trial = EarlierTrial("other/trial_000", texts, PRINTS, "finished", 3.0)
        keep_earlier_trials(before, folder, EarlierStudies("other", [trial].copy))
        try:
            Study.model_validate(after.model_dump(mode="json"))
        except ValidationError:
            continue  # no study: what a trial of it would count for is no question
        found, left_out = known_points(after, folder, lambda point: PRINTS)
        if info.changes_recall and not info.by_content:
            assert f"{key} was " in left_out["other/trial_000"] or f"{key}=" in left_out["other/trial_000"]
        elif key == "search.space":
            assert left_out == {"other/trial_000": "distillation.lr_image=1000.0 is outside 1 to 2"}
        elif key == "search.objectives":
            assert "its seconds" in left_out["other/trial_000"]
        else:
            assert [one.trial_id for one in found] == ["other/trial_000"], key


def flat(study: Study) -> dict[str, Any]:
    """The settings of a study as a tracker has them: those that have a value."""
    return {key: value for key, value in flat_settings(study.model_dump(mode="json")).items() if value is not None}
