"""Checks of search settings: meaningless conditions, and combinations that are not supported.

Samplers and stopping rules declare their possible combinations. Combinations that a sampler would silently ignore
are rejected.
"""

from collections.abc import Callable, Mapping

from rayvldd.config.domains import Domain, FloatDomain, SettingValue, is_among
from rayvldd.config.metrics import NUM_PAIRS, VAL_MEAN_RECALL
from rayvldd.config.search_plugins import RULES, SAMPLERS, Incompatibility
from rayvldd.config.space import Space
from rayvldd.config.study import SearchSettings, Study
from rayvldd.errors import ConfigError, Fault, did_you_mean
from rayvldd.printable import quoted, value_as_text


def refuse_one_point(study: Study, file: str) -> None:
    """Refuse to search a study whose space has one point: its trials would differ in their seeds alone.

    Args:
        study: The study.
        file: Where its settings are from, for the message.

    Raises:
        ConfigError: when the study has no search space, or one with a single point.
    """
    if not study.space.has_one_point:
        return
    held = "has a single point" if study.search.space else "is empty"
    problem = f"{held}, so that all {study.search.num_trials} trials would have the same settings"
    allowed = "at least one setting with several values, such as distillation.lr_image"
    fault = Fault(f"{file}: search.space", problem, allowed)
    raise ConfigError([fault], next_command=f"rayvldd distill {file}, which distils the point once")


def faults_of_conditions(space: Mapping[str, Domain], is_setting: Callable[[str], bool], file: str) -> list[Fault]:
    """Check that conditions refer to existing settings, to possible values of these, and form no cycle."""
    faults = []
    for key, domain in space.items():
        where = f"{file}: search.space.{key}.when"
        for name, values in domain.when.items():
            referenced = space.get(name)
            if not is_setting(name):
                faults.append(Fault(where, f"{name!r} is not a setting{did_you_mean(name, space)}", "a dotted key"))
            elif not values:
                faults.append(Fault(where, f"{name} has no value to compare with", "a value, or a list of values"))
            elif isinstance(referenced, FloatDomain):
                allowed = "a choice, fixed or int domain, or a setting that is not searched"
                faults.append(Fault(where, f"{name} has a float domain and never equals a given value", allowed))
            elif referenced is not None and not referenced.when:
                wrong = [value for value in values if value not in referenced]
                if wrong:
                    faults.append(Fault(where, f"{name} never is {', '.join(map(quoted, wrong))}", str(referenced)))
    try:
        assert Space(space, {}).order is not None
    except ValueError as error:
        faults.append(Fault(f"{file}: search.space", f"conditions form a cycle: {error}", "conditions without a cycle"))
    return faults


def faults_of_inactive(study: Study, where: str, point: Mapping[str, SettingValue]) -> list[Fault]:
    """Find settings of an initial point whose conditions the same point does not fulfil."""
    domains, faults = study.space.domains, []
    for key in point:
        for name, values in domains[key].when.items() if key in domains else ():
            if name in point and not is_among(point[name], values):
                required = f"with {name}={' or '.join(map(value_as_text, values))}"
                faults.append(
                    Fault(where, f"{key} is not searched if {name} is {value_as_text(point[name])}", required)
                )
    return faults


def faults_of_search(study: Study, file: str) -> list[Fault]:
    """Check that sampler, scheduler, objectives and ``choose`` are compatible with each other and with the space."""
    search, space = study.search, study.space
    found = SAMPLERS[search.sampler].incompatibilities(space, len(search.objectives))
    found += [*_faults_of_objectives(search, space), *_faults_of_choice(search), *_faults_of_stopping(search)]
    return [Fault(f"{file}: search.{one.key}", one.problem, one.allowed) for one in found]


def _faults_of_objectives(search: SearchSettings, space: Space) -> list[Incompatibility]:
    objectives, found = search.objectives, list[Incompatibility]()
    if len(set(objectives)) != len(objectives):
        found.append(Incompatibility("objectives", f"must be distinct, got {', '.join(objectives)}", ""))
    if VAL_MEAN_RECALL not in objectives:
        problem = f"without a recall the smallest set wins, got {', '.join(objectives)}"
        found.append(Incompatibility("objectives", problem, f"{VAL_MEAN_RECALL}, alone or with num_pairs and seconds"))
    if NUM_PAIRS.name in objectives and search.space and "distillation.num_pairs" not in space.domains:
        problem = "num_pairs is the same at every point"
        found.append(Incompatibility("objectives", problem, "num_pairs if search.space has distillation.num_pairs"))
    return found + RULES[search.scheduler].incompatibilities(objectives)


def _faults_of_stopping(search: SearchSettings) -> list[Incompatibility]:
    if search.stop_below_gain is None:
        return []
    if not SAMPLERS[search.sampler].predicts_gain:
        problem = f"has no effect, since sampler {search.sampler} predicts no gain"
        others = ", ".join(name for name in SAMPLERS if SAMPLERS[name].predicts_gain)
        return [Incompatibility("stop_below_gain", problem, f"null, or a sampler that predicts it: {others}")]
    if len(search.objectives) > 1:
        problem = f"has no effect with {len(search.objectives)} objectives"
        return [Incompatibility("stop_below_gain", problem, f"null, or {VAL_MEAN_RECALL} as the only objective")]
    return []


def _faults_of_choice(search: SearchSettings) -> list[Incompatibility]:
    objectives, choose = search.objectives, search.choose
    # A missing recall is already reported as a fault of the objectives.
    named: dict[str, str] = {} if choose.by == VAL_MEAN_RECALL else {"by": choose.by}
    named |= {f"at_most.{key}": key for key in choose.at_most}
    named |= {f"at_least.{key}": key for key in choose.at_least}
    return [
        Incompatibility(f"choose.{where}", f"{name} is not an objective of this study", ", ".join(objectives))
        for where, name in named.items()
        if name not in objectives
    ]
