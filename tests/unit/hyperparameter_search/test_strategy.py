"""Samplers and stopping rules of other packages, and the one module that knows Ray Tune."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.imports_of_files import imports_of
from helpers.searches import evaluated
from pydantic import ValidationError

import rayvldd
from rayvldd.config.domains import SettingValue, as_number
from rayvldd.config.search_plugins import RULES, SAMPLERS, SamplerDeclaration, StoppingRuleDeclaration
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.strategy import Decision, make_strategy
from rayvldd.records.trial import Trial

SPACE = {"distillation.lr_image": {"type": "float", "low": 1.0, "high": 1000.0, "log": True}}


class Doubling:
    """Proposes twice the best rate so far."""

    def propose(
        self, trial_id: str, given: dict[str, SettingValue], history: Collection[Trial]
    ) -> dict[str, SettingValue]:
        ended = [trial for trial in history if trial.state == "finished" and trial.best]
        best = max(ended, key=lambda trial: trial.best["val_mean_recall"] if trial.best else 0.0, default=None)
        rate = 2 * as_number(best.point["distillation.lr_image"]) if best else 1.0
        return {"distillation.lr_image": rate, **given}

    def repeated(self, trial_id: str, earlier: Trial | None) -> None:
        raise AssertionError("a rate that doubles is never a known one")


class Below:
    """Stops every trial below 5 %."""

    def reason_to_stop(self, trial: Trial, history: Collection[Trial]) -> str | None:
        return "below 5 %" if trial.evaluations[-1]["val_mean_recall"] < 5.0 else None


def make_doubling(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Doubling:
    return Doubling()


def make_below(study: Study) -> Below:
    return Below()


@pytest.fixture
def plugins() -> Iterator[None]:
    SAMPLERS.add(SamplerDeclaration("doubling", f"{__name__}:make_doubling", models_choices=False))
    RULES.add(StoppingRuleDeclaration("below", f"{__name__}:make_below"))
    yield
    SAMPLERS.remove("doubling")
    RULES.remove("below")


def searched(study: Study, **search: Any) -> Study:
    values = study.model_dump(mode="json")
    values["search"] = {"space": SPACE, "stop_without_gain": False, **search}
    return Study.model_validate(values)


def ended(number: int, point: dict[str, SettingValue], recall: float) -> Trial:
    evaluations = [evaluated(0, recall, float(number))]
    return Trial(f"trial_{number:03d}", number, 1, point, Path(), "finished", evaluations=evaluations)


def test_a_study_names_a_sampler_and_a_rule_of_another_package(tiny_study: Study, plugins: None) -> None:
    study = searched(tiny_study, sampler="doubling", scheduler="below", initial_points=[{"distillation.lr_image": 3}])
    strategy, history = make_strategy(study), list[Trial]()
    for number, rate in enumerate((3.0, 6.0, 12.0)):
        proposal = strategy.propose(history)
        assert (proposal.number, proposal.point) == (number, {"distillation.lr_image": rate})
        history.append(ended(number, proposal.point, 4.0 + number))
        assert strategy.decide(history[-1], history) is (Decision.STOP if number == 0 else Decision.CONTINUE)


def test_its_declaration_is_checked_with_the_study(tiny_study: Study, plugins: None) -> None:
    space = {"distillation.augmentation": {"type": "choice", "values": ["a", "b"]}}
    study = searched(tiny_study, sampler="doubling", space=space)
    (incompatibility,) = SAMPLERS["doubling"].incompatibilities(study.space, 1)
    assert incompatibility.problem == "doubling would sample choices at random: distillation.augmentation"
    assert incompatibility.allowed.startswith("tpe, curves, gp, random;")
    (incompatibility,) = RULES["below"].incompatibilities(("val_mean_recall", "seconds"))
    assert incompatibility.key == "scheduler" and incompatibility.allowed.startswith("none, with")


@pytest.mark.parametrize("key", ["sampler", "scheduler"])
def test_an_unknown_name_is_refused(key: str, tiny_study: Study) -> None:
    with pytest.raises(ValidationError, match=f"search.{key}\n.*should be '(tpe|asha)'"):
        searched(tiny_study, **{key: "no_such"})


def test_an_entry_point_is_loaded_when_it_is_named(monkeypatch: pytest.MonkeyPatch, tiny_study: Study) -> None:
    from importlib.metadata import EntryPoint

    declared = SamplerDeclaration("elsewhere", f"{__name__}:make_doubling")
    monkeypatch.setattr(EntryPoint, "load", lambda point: {"good": declared, "bad": 3}[point.value])
    points = {name: EntryPoint(name, value, SAMPLERS.group) for name, value in (("elsewhere", "good"), ("bad", "bad"))}
    monkeypatch.setattr("rayvldd.config.search_plugins._entry_points", lambda group: points)
    assert list(SAMPLERS)[-2:] == ["elsewhere", "bad"]
    assert searched(tiny_study, sampler="elsewhere").search.sampler == "elsewhere"
    with pytest.raises(TypeError, match=r"'bad' of rayvldd.samplers is not a SamplerDeclaration"):
        SAMPLERS["bad"]
    SAMPLERS.remove("elsewhere")


def test_one_module_knows_ray_tune() -> None:
    package = Path(rayvldd.__file__).parent
    knowing = {file.relative_to(package).as_posix() for file in package.rglob("*.py") if _imports_tune(file)}
    assert knowing == {"hyperparameter_search/tune_adapter.py"}


def _imports_tune(file: Path) -> bool:
    return any(f"{found.full_name}.".startswith("ray.tune.") for found in imports_of(file))
