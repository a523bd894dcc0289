"""Objectives of a study: values of a trial, the Pareto front, and the choice of a set from it."""

from collections.abc import Iterable, Mapping, Sequence

from rayvldd.config.domains import SettingValue, as_number
from rayvldd.config.metrics import NUM_PAIRS, OBJECTIVES, SECONDS, VAL_MEAN_RECALL
from rayvldd.config.study import Objective, Study
from rayvldd.errors import RayvlddError
from rayvldd.records.study_outcome import FrontRow
from rayvldd.records.trial import Evaluation, Trial, best_first


def values_of(evaluation: Evaluation, point: Mapping[str, SettingValue], study: Study) -> dict[Objective, float]:
    """The study's objectives at one evaluation of a trial.

    ``seconds`` is the time of distillation and evaluation up to this evaluation, which is the cost of its set, not of
    the whole trial. It depends on the machine and is not reproducible.
    """
    known: dict[Objective, float] = {
        VAL_MEAN_RECALL: evaluation.recall,
        NUM_PAIRS.name: float(as_number(point.get("distillation.num_pairs", study.distillation.num_pairs))),
        SECONDS.name: evaluation.seconds or 0.0,
    }
    return {name: known[name] for name in study.search.objectives}


def values_of_trial(trial: Trial, study: Study) -> dict[Objective, float] | None:
    """The study's objectives at a trial's best evaluation; None if it failed or has no evaluation."""
    return values_of(trial.best, trial.point, study) if trial.is_candidate and trial.best else None


def pareto_front(trials: Iterable[Trial], study: Study) -> list[Trial]:
    """The trials that no other trial dominates, by descending recall.

    Of trials with equal objectives only the earliest is included, so with one objective it is the best trial.
    """
    known = [(trial, _heights(values)) for trial in trials if (values := values_of_trial(trial, study)) is not None]
    front: list[tuple[Trial, Sequence[float]]] = []
    for trial, heights in sorted(known, key=lambda one: ([-height for height in one[1]], one[0].number)):
        if not any(all(a >= b for a, b in zip(other, heights, strict=True)) for _, other in front):
            front.append((trial, heights))
    return best_first(trial for trial, _ in front)


def ranked(trials: Iterable[Trial], study: Study) -> list[Trial]:
    """The trials that can be chosen, the choice first.

    With one objective: all trials with a set, by recall. With several: the part of the Pareto front within the bounds
    of ``search.choose``, in its order.
    """
    if len(study.search.objectives) == 1:
        return best_first(trials)
    choose = study.search.choose
    order = [choose.by, *(name for name in study.search.objectives if name != choose.by)]

    def place(trial: Trial) -> list[float]:
        values = values_of_trial(trial, study)
        assert values is not None
        return [-values[name] if OBJECTIVES[name].rises else values[name] for name in order] + [trial.number]

    return sorted((trial for trial in pareto_front(trials, study) if _is_allowed(trial, study)), key=place)


def row_of_front(trial: Trial, study: Study) -> FrontRow:
    """Table row of a trial of the front: name, settings and the value of every objective."""
    values = values_of_trial(trial, study) or {}
    return FrontRow.model_validate({"trial_id": trial.trial_id, "config": trial.point, **values})


def line_of_front(trial: Trial, study: Study) -> str:
    """Format a trial of the front as one line."""
    values = values_of_trial(trial, study) or {}
    return f"{trial.trial_id}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def nothing_allowed(trials: Iterable[Trial], study: Study) -> RayvlddError:
    """The error for a study whose front is outside the bounds of ``search.choose``; its trials are unchanged."""
    choose = study.search.choose
    bounds = [f"{name} at most {bound:g}" for name, bound in choose.at_most.items()]
    bounds += [f"{name} at least {bound:g}" for name, bound in choose.at_least.items()]
    rows = [f"  {line_of_front(trial, study)}" for trial in pareto_front(trials, study)]
    return RayvlddError(
        "\n".join([f"study {study.name}: no set of its Pareto front has {' and '.join(bounds)}:", *rows]),
        next_command="the same command with another bound, e.g. --set search.choose.at_most='{num_pairs: 500}'; no "
        "trial runs again",
    )


def _is_allowed(trial: Trial, study: Study) -> bool:
    values, choose = values_of_trial(trial, study), study.search.choose
    assert values is not None
    most, least = choose.at_most.items(), choose.at_least.items()
    return all(values[name] <= bound for name, bound in most) and all(values[name] >= bound for name, bound in least)


def _heights(values: Mapping[Objective, float]) -> list[float]:
    """The values with signs such that larger is better."""
    return [value if OBJECTIVES[name].rises else -value for name, value in values.items()]
