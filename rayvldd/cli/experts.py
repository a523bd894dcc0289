"""``rayvldd experts``: training of the experts of a study.

Its subcommands are in :mod:`rayvldd.cli.expert_sets` and :mod:`rayvldd.cli.buffers`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rayvldd.cli.buffers import import_command
from rayvldd.cli.expert_sets import COMMANDS_ON_SETS
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output, PlanLines
from rayvldd.cli.preparation import checked_study, dry_run, reachable, store_option, study_argument, writable_store
from rayvldd.cli.tracking import tracking_option
from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.errors import did_you_mean
from rayvldd.printable import counted

if TYPE_CHECKING:
    from rayvldd.hyperparameter_search.preparation import ExpertSet
    from rayvldd.library.run_log import MetricsOfSet


SUBCOMMANDS: dict[str, RunCommand] = {**COMMANDS_ON_SETS, "import": import_command}
"""Names of the subcommands, in place of STUDY."""


class StudyOrWord(RunCommand):
    """A command on a study that is replaced by a subcommand if the first argument is its name.

    A study file with such a name can be given as ``./list``.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """Parse the arguments with the command or subcommand that they name."""
        word = args[0] if args else ""
        if word in SUBCOMMANDS:
            return SUBCOMMANDS[word].make_context(f"{info_name} {word}", args[1:], parent, **extra)
        hint = did_you_mean(word, SUBCOMMANDS)
        if hint and "." not in word and not Path(word).exists():
            raise click.UsageError(f"{word!r} is neither a study file nor one of {', '.join(SUBCOMMANDS)}{hint}")
        return super().make_context(info_name, args, parent, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the subcommands below the options."""
        super().format_options(ctx, formatter)
        with formatter.section("In place of STUDY"):
            formatter.write_dl([(word, found.get_short_help_str(80)) for word, found in SUBCOMMANDS.items()])


class _SetOutput(Output):
    point: dict[str, SettingValue]
    key: str
    store: str
    num_experts: int
    epochs: int
    val_mean_recall: float | None
    """Mean over the experts at their last epoch, in percent; None for imported ones."""


class _ExpertsMade(Output):
    study: str
    made: int
    sets: list[_SetOutput]


@click.command(
    "experts",
    cls=StudyOrWord,
    short_help="Train the experts of a study in parallel.",
    kept="every expert that was finished",
    examples=[
        "rayvldd experts search_spaces/quickstart.yaml",
        "rayvldd experts search_spaces/quickstart.yaml --num-experts 8 --set resources.cpus_per_expert=2",
        "rayvldd experts search_spaces/quickstart.yaml --dry-run",
        "rayvldd experts list",
    ],
)
@study_argument
@click.option("--num-experts", type=click.IntRange(min=1), help="Experts in each set; default: the study's setting.")
@tracking_option
@store_option
@click.pass_obj
def command(
    invocation: Invocation, study_file: Path, num_experts: int | None, tracking_uri: str | None, store_uri: str | None
) -> None:
    """Train the experts of STUDY in parallel, and save their trajectories.

    Each value of a searched setting that changes the experts, such as the rank of the adapters, gets its own set.
    Existing experts are reused, but never those of other settings.
    """
    extra = [f"experts.num_experts={num_experts}"] if num_experts else []
    study, workspace = checked_study(invocation, study_file, *extra)

    store = writable_store(store_uri, workspace)
    if invocation.dry_run:
        return dry_run(invocation, study, plan_of_experts(study, store.uri))

    if not study.requires_experts:
        invocation.say(f"experts: {no_experts(study)}")
        return invocation.finish(_ExpertsMade(study=study.name, made=0, sets=[]))

    with invocation.waiting("loading Ray"):
        from rayvldd.hyperparameter_search.preparation import load_expert_sets, make_missing_experts
        from rayvldd.library.run_log import log_experts, run_log

    with (
        invocation.display() as display,
        reachable(store),
        run_log(study, workspace, invocation.line, tracking_uri, display) as tracker,
    ):
        sets = load_expert_sets(study, workspace.cache, display)
        made = make_missing_experts(sets, store, workspace.cache, display)
        metrics = [
            {index: store.metrics(known.recipe, index) for index in store.finished(known.recipe)} for known in sets
        ]
        log_experts(tracker, metrics)
        tracker.end_study("finished", {"experts_made": made}, None)
    summaries = [_summary(known, store.uri, experts) for known, experts in zip(sets, metrics, strict=True)]
    for summary in summaries:
        recall = summary.val_mean_recall
        score = "val mean recall unknown" if recall is None else f"val mean recall {recall:.1f} at the last"
        invocation.say(
            f"{summary.num_experts} experts of {summary.epochs} epochs, {score}, in {summary.store} under {summary.key}"
        )
    invocation.finish(_ExpertsMade(study=study.name, made=made, sets=summaries))


def no_experts(study: Study) -> str:
    """Text stating that the methods of a study use no experts."""
    return f"none, {' and '.join(method.name for method in study.methods())} needs none"


def plan_of_experts(study: Study, folder: str) -> PlanLines:
    """Plan of the training of a study's experts."""
    if not study.requires_experts:
        return {"expert_sets": 0, "experts": no_experts(study)}
    points = study.expert_points()
    cpus = study.resources.cpus_per_expert
    epochs = " or ".join(str(number) for number in sorted({point.experts.epochs for point in points}))
    return {
        "expert_sets": len(points),
        "experts_a_set": study.experts.num_experts,
        "epochs": epochs,
        "resources": f"{counted(cpus, 'CPU')} and {_gpus(study)} for each actor",
        "storage": folder,
    }


def _gpus(study: Study) -> str:
    gpus = study.resources.gpus_per_expert
    return "a share of the GPUs that are there" if gpus is None else f"{gpus:g} GPUs"


def _summary(known: "ExpertSet", store_uri: str, metrics: "MetricsOfSet") -> _SetOutput:
    last = [by_epoch[-1][VAL_MEAN_RECALL] for by_epoch in metrics.values() if by_epoch]  # imported ones have none
    return _SetOutput(
        point=known.point,
        key=known.recipe.key,
        store=store_uri,
        num_experts=len(metrics),
        epochs=known.study.experts.epochs,
        val_mean_recall=sum(last) / len(last) if last else None,
    )
