"""What a search cannot do as it is asked: conditions without a sense, and settings that do not go together.

Samplers and stopping rules declare what they can be combined with; combinations that a sampler would silently ignore
are rejected.
"""

from collections.abc import Callable, Mapping

from rayvldd.config.domains import Domain, FloatDomain, Scalar, is_among
from rayvldd.config.metrics import NUM_PAIRS, VAL_MEAN_RECALL
from rayvldd.config.search_plugins import RULES, SAMPLERS, Finding
from rayvldd.config.space import Space
from rayvldd.config.study import SearchSettings, Study
from rayvldd.errors import ConfigError, Fault, did_you_mean


def refuse_one_point(study: Study, file: str) -> None:
    """Refuse to search a study whose space has one point: its trials would differ in their seeds alone.

    Args:
        study: What is to be searched.
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
    """Check that conditions name settings, ask for values that these can have, and lead somewhere."""
    faults = []
    for key, domain in space.items():
        where = f"{file}: search.space.{key}.when"
        for name, values in domain.when.items():
            asked = space.get(name)
            if not is_setting(name):
                faults.append(Fault(where, f"{name!r} is no setting{did_you_mean(name, space)}", "a dotted key"))
            elif not values:
                faults.append(Fault(where, f"{name} has no value to be compared with", "a value, or a list of them"))
            elif isinstance(asked, FloatDomain):
                allowed = "a choice, a fixed or a whole number, or a setting that is not searched"
                faults.append(Fault(where, f"{name} is drawn from the reals and meets no value", allowed))
            elif asked is not None and not asked.when:
                wrong = [value for value in values if value not in asked]
                if wrong:
                    faults.append(Fault(where, f"{name} never is {', '.join(map(repr, wrong))}", str(asked)))
    try:
        assert Space(space, {}).order is not None
    except ValueError as error:
        faults.append(Fault(f"{file}: search.space", f"conditions go round in a circle: {error}", "a way without one"))
    return faults


def faults_of_dormant(study: Study, where: str, point: Mapping[str, Scalar]) -> list[Fault]:
    """Find the settings of an initial point that are not searched where the point itself is."""
    domains, faults = study.space.domains, []
    for key in point:
        for name, values in domains[key].when.items() if key in domains else ():
            if name in point and not is_among(point[name], values):
                wanted = f"with {name}={' or '.join(map(str, values))}"
                faults.append(Fault(where, f"{key} is not searched where {name} is {point[name]}", wanted))
    return faults


def faults_of_search(study: Study, file: str) -> list[Fault]:
    """Check that sampler, scheduler, objectives and choice go together with each other and with the space."""
    search, space = study.search, study.space
    found = SAMPLERS[search.sampler].findings(space, len(search.objectives))
    found += [*_faults_of_objectives(search, space), *_faults_of_choice(search)]
    return [Fault(f"{file}: search.{one.key}", one.problem, one.allowed) for one in found]


def _faults_of_objectives(search: SearchSettings, space: Space) -> list[Finding]:
    objectives, found = search.objectives, list[Finding]()
    if len(set(objectives)) != len(objectives):
        found.append(Finding("objectives", f"each may stand once, got {', '.join(objectives)}", ""))
    if VAL_MEAN_RECALL not in objectives:
        problem = f"without a recall the smallest set wins, got {', '.join(objectives)}"
        found.append(Finding("objectives", problem, f"{VAL_MEAN_RECALL}, alone or with num_pairs and seconds"))
    if NUM_PAIRS.name in objectives and search.space and "distillation.num_pairs" not in space.domains:
        problem = "num_pairs is the same at every point"
        found.append(Finding("objectives", problem, "num_pairs where search.space has distillation.num_pairs"))
    return found + RULES[search.scheduler].findings(objectives)


def _faults_of_choice(search: SearchSettings) -> list[Finding]:
    objectives, choose = search.objectives, search.choose
    named: dict[str, str] = {} if choose.by == VAL_MEAN_RECALL else {"by": choose.by}  # a recall is asked for already
    named |= {f"at_most.{key}": key for key in choose.at_most}
    named |= {f"at_least.{key}": key for key in choose.at_least}
    return [
        Finding(f"choose.{where}", f"{name} is no objective of this study", ", ".join(objectives))
        for where, name in named.items()
        if name not in objectives
    ]
