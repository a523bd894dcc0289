"""Estimate of the cost of a study on this machine, from timings of each kind of work."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.console import time_as_text
from rayvldd.distillation.loop import OuterLoop
from rayvldd.evaluation.students import evaluate_pairs
from rayvldd.experts.recipe import ExpertTraining
from rayvldd.experts.training import train_expert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import student_seeds
from rayvldd.records.study_plan import AtATime, Cost, PhaseSeconds, Plan, Probe
from rayvldd.runtime.trial_task import load_trial_task
from rayvldd.training.real_batches import RealEpoch

_EPOCH_IMAGES = 1024
"""Training images of the timed epoch; the time of a whole epoch is extrapolated."""


T = TypeVar("T")


def probe(study: Study, cache: Path, on_progress: Callable[[str, int, int], None] | None = None) -> Probe:
    """Time one expert epoch, one outer step at both ends of the space, and one student.

    Only the cache of data and features is kept.
    """
    points = [study.at(study.space.lowest()), study.at(study.space.highest())]
    torch.set_num_threads(study.resources.cpus_per_trial)
    prepare, task = _timed(lambda: load_trial_task(points[0], cache, on_progress))
    # Compilation and first accesses occur once per process, so the second execution is timed.
    epoch, trajectory = _timed_epoch(points[0], task)
    loop = _loop(points[0], task, trajectory)
    steps = [_timed_step(loop)]
    seeds, evaluation = student_seeds(study.seed, 1), points[0].evaluation
    student, _ = _timed(lambda: evaluate_pairs(task, loop.distilled_set().pairs(task), task.val, evaluation, seeds))
    if points[1] != points[0]:
        other = load_trial_task(points[1], cache, on_progress)
        steps.append(_timed_step(_loop(points[1], other, _timed_epoch(points[1], other)[1])))
    of_expert, of_all = _epochs(points[0], task)
    full_data_epoch = epoch * of_all.num_pairs / of_expert.num_pairs
    return Probe(
        prepare=prepare,
        expert_epoch=epoch,
        outer_step=(min(steps), max(steps)),
        student=student,
        full_data_epoch=full_data_epoch,
    )


def estimate(study: Study, planned: Plan, probed: Probe, num_cpus: int | None = None) -> Cost:
    """Estimate the seconds of each phase of a search from a probe, for the cheapest and the most expensive point.

    Early stopping reduces the time; concurrent work on the same cores increases it.

    Args:
        study: The study.
        planned: Result of ``plan`` for the study.
        probed: Seconds of each kind of work.
        num_cpus: Number of CPUs; default: those that this process may use.
    """
    cpus = num_cpus or len(os.sched_getaffinity(0))
    side = AtATime(
        experts=max(1, cpus // study.resources.cpus_per_expert),
        trials=max(1, min(study.search.max_concurrent, cpus // study.resources.cpus_per_trial)),
    )
    sets, evaluation = planned.expert_sets, study.evaluation
    epochs = sum((known.experts - known.existing) * known.epochs for known in sets)
    trials = planned.trials.total - planned.trials.ended
    steps, every = study.largest("distillation.outer_steps"), study.largest("distillation.evaluate_every")
    evaluations = 1 + math.ceil(steps / every)
    a_trial = [steps * step + evaluations * evaluation.num_students * probed.student for step in probed.outer_step]
    full_data = evaluation.full_data.total_epochs(evaluation.num_test_students) * probed.full_data_epoch
    return Cost(
        probe=probed,
        at_a_time=side,
        expert_epochs=epochs,
        trials=trials,
        outer_steps=steps,
        evaluations=evaluations,
        num_students=evaluation.num_students,
        seconds=PhaseSeconds(
            experts=epochs * probed.expert_epoch / side.experts,
            a_trial=a_trial,
            search=[trials * seconds / side.trials for seconds in a_trial],
            test=(2 * evaluation.num_test_students * probed.student + full_data) / side.trials,
        ),
    )


def describe_cost(cost: Cost) -> str:
    """Format the estimate with its calculation, in a few lines."""
    probed, seconds, side = cost.probe, cost.seconds, cost.at_a_time
    low, high = probed.outer_step
    total = [seconds.experts + search + seconds.test for search in seconds.search]
    each = " to ".join(dict.fromkeys((f"{low:.3g}", f"{high:.3g}")))
    return "\n".join(
        [
            "cost, from a probe on this machine (cache filled in " + time_as_text(probed.prepare) + "):",
            f"  experts: {_experts(cost)}",
            f"  a trial: {cost.outer_steps} outer steps x {each} s + {cost.evaluations} evaluations x "
            f"{cost.num_students} students x {probed.student:.3g} s = {_range(seconds.a_trial)}",
            f"  search:  {cost.trials} trials / {side.trials} at a time = {_range(seconds.search)}, less what "
            "is stopped early",
            f"  test:    {time_as_text(seconds.test)}",
            f"  in all:  {_range(total)}; work side by side on shared cores takes longer",
        ]
    )


def _experts(cost: Cost) -> str:
    if not cost.expert_epochs:
        return "none to make"
    arithmetic = f"{cost.expert_epochs} epochs x {cost.probe.expert_epoch:.3g} s"
    at_a_time, total = cost.at_a_time.experts, time_as_text(cost.seconds.experts)
    return f"{arithmetic} / {at_a_time} at a time = {total}"


def _range(seconds: list[float]) -> str:
    return " to ".join(dict.fromkeys(map(time_as_text, seconds)))


def _timed_epoch(point: Study, task: RetrievalTask) -> tuple[float, Trajectory]:
    """Seconds of an epoch over all images, and a trajectory of two epochs over a subset."""
    used = point.experts.num_train_images or task.train.num_images
    part = min(used, _EPOCH_IMAGES)
    short = point.experts.model_copy(update={"epochs": 2, "num_train_images": part})
    trajectory, metrics = train_expert(task, ExpertTraining(short, point.seed), 0)
    return metrics[-1]["seconds"] * used / part, trajectory


def _epochs(point: Study, task: RetrievalTask) -> tuple[RealEpoch, RealEpoch]:
    """An epoch of an expert and of a model of all pairs."""
    experts = point.experts
    of_expert = RealEpoch(task, experts.batch_size, experts.captions_per_image, experts.num_train_images)
    return of_expert, RealEpoch(task, experts.batch_size, point.evaluation.full_data.captions_per_image)


def _loop(point: Study, task: RetrievalTask, trajectory: Trajectory) -> OuterLoop:
    """An outer loop with the short expert and rates too small to diverge; the cost of a step is the same."""
    declaration = point.distillation.declaration
    changes: dict[str, SettingValue] = dict.fromkeys(("lr_image", "lr_text", "lr_sim"), 1e-9)
    changes |= {f"{declaration.name}.{name}": value for name, value in declaration.for_probe.items()}
    if point.distillation.outer_optimiser == "scaled_sgd":
        changes["outer_optimiser"] = "sgd"  # a step costs the same, and no gradients are computed to scale the rates
    settings = {f"distillation.{name}": value for name, value in changes.items()}
    probed = point.at({**settings, "experts.keep_epochs": "all"})
    return OuterLoop(probed, task, [trajectory] if probed.requires_experts else [], seed=0)


def _timed_step(loop: OuterLoop) -> float:
    loop.step()
    seconds, _ = _timed(loop.step)
    return seconds


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    done = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, done
