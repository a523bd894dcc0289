"""``rayvldd evaluate``: evaluation of distilled sets with new students, on their own or other image encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import Field, JsonValue, SerializeAsAny

from rayvldd.cli.breakdown import show_breakdown
from rayvldd.cli.encoder_options import TEXT_FORMS, read_encoders, read_text_encoders
from rayvldd.cli.further import further_options, read_further, refuse_further, show_further
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output, PlanLines
from rayvldd.cli.preparation import check_models_and_data, show_plan, show_settings, writable_workspace
from rayvldd.cli.scoring import (
    read_methods,
    read_rates,
    scoring_options,
    show_published,
    show_split,
    show_training,
    together_with,
    words,
)
from rayvldd.config.study import Study
from rayvldd.errors import Fault
from rayvldd.library.encoder_ranks import encoder_ranks
from rayvldd.library.evaluating import (
    EvaluatedSets,
    EvaluationOptions,
    differences_of,
    evaluate_group,
    keep_evaluation,
    table_of_group,
)
from rayvldd.library.foreign_sets import refuse_untrusted
from rayvldd.library.further import stored_name
from rayvldd.library.scoring import Split, words_of_bound, words_of_rates
from rayvldd.library.set_groups import GroupScores, SetGroup, TextConversion, group_sets, load_sets
from rayvldd.library.sets_in_order import read_order
from rayvldd.records.form import Values
from rayvldd.records.json_values import JsonObject
from rayvldd.records.set_scores import ALL_PAIRS, SetScores

if TYPE_CHECKING:
    from rayvldd.config.settings import ImageEncoderSettings, TextEncoderSettings
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.records.set_scores import Breakdown
    from rayvldd.reports.published import PublishedRow


class _PlannedEvaluation(Output):
    split: str
    settings: list[dict[str, JsonValue]]
    """All settings of the students on each encoder; sets with other data or students have their own."""
    plan: PlanLines


class _Output(SetScores):
    """The scores of the workspace and their file, with ``--reference`` followed by the published tables."""

    scores: Path
    published: list[SerializeAsAny[Values]] | None = None
    absent: set[str] = Field(exclude=True)
    """Parts that no option of the command demands."""

    def as_json(self) -> JsonObject:
        """The object without these parts."""
        return {name: value for name, value in super().as_json().items() if name not in self.absent}


@click.command(
    "evaluate",
    cls=RunCommand,
    short_help="Train new students on distilled sets, and score them.",
    kept="the caches; students are trained again",
    examples=[
        "rayvldd evaluate rayvldd_workspace/studies/quickstart/best",
        "rayvldd evaluate my_set other_set --students 3 --coresets random,herding",
        "rayvldd evaluate my_set --students 5 --split test --breakdown --reference",
        "rayvldd evaluate my_set --transfer mobilenetv1_100,resnet18,nf_resnet50=nf_resnet50.safetensors",
        "rayvldd evaluate my_set --text-encoder cls:bert-base-uncased,hashed_ngrams:512 --texts nearest",
        "rayvldd evaluate my_set --students 5 --robustness --on other_study.yaml --zero-shot pictures/",
        "rayvldd evaluate phase_1 phase_2 --in-order --later-rate 0.1",
        "rayvldd evaluate my_set --set data.root=/data/flickr8k --no-full-data --json",
    ],
)
@click.argument("places", metavar="SET...", nargs=-1, required=True)
@scoring_options
@click.option("--coresets", metavar="NAMES", help="Also evaluate coresets of the same size by these methods; or `all`.")
@click.option("--image-encoder", metavar="ENC", help="Train students with this encoder instead of the set's.")
@click.option("--transfer", metavar="ENC,...", help="The same for several encoders, as a matrix of mean recalls.")
@click.option(
    "--text-encoder", metavar="TEXT,...", help="Train students with these text encoders; several make a matrix."
)
@click.option(
    "--texts",
    "conversion",
    type=click.Choice(["auto", "as_is", "nearest", "ridge"]),
    default="auto",
    show_default=True,
    help="Caption embeddings for --text-encoder: as they are, those of the nearest real captions, or by a linear map "
    "from real captions. auto: as_is for the same width, else ridge.",
)
@click.option("--lr-student", metavar="IMAGE,TEXT", help="Learning rates of students in place of the learned ones.")
@click.option("--trust", is_flag=True, help="Let a SET from elsewhere load the files and encoders that its card names.")
@click.option("--breakdown", is_flag=True, help="Also show recall by caption length and subject, and subjects kept.")
@click.option(
    "--in-order",
    is_flag=True,
    help="Train each student on the SETs one after another, as on sets that are distilled in phases, with one row for "
    "all of them.",
)
@click.option(
    "--later-rate",
    type=float,
    metavar="FACTOR",
    default=1.0,
    show_default=True,
    help="With --in-order, factor on the learning rates of all SETs but the first.",
)
@further_options
@click.pass_obj
def command(
    invocation: Invocation,
    places: tuple[str, ...],
    students: int | None,
    split: Split,
    full_data: bool,
    reference: bool,
    coresets: str | None,
    image_encoder: str | None,
    transfer: str | None,
    text_encoder: str | None,
    conversion: TextConversion,
    lr_student: str | None,
    trust: bool,
    breakdown: bool,
    in_order: bool,
    later_rate: float,
    robustness: bool,
    on_study: str | None,
    zero_shot: str | None,
    template: str,
    privacy: bool,
) -> None:
    """Train new students on each distilled SET and print their recalls.

    A SET is a folder, or models:/STUDY@best of MLflow; its card contains the settings of its distillation. If data or
    weights are in another place on this machine, use `--set data.root=...` and similar. A SET from outside the
    workspace loads no files or encoders that you do not name, unless `--trust` is given. ENC is a timm name,
    NAME=WEIGHTS-FILE, or FILE.yaml with the keys of model.image_encoder. For another encoder, the set's pixels are
    converted to its scale, and the step sizes that the set learned for its own encoder are used unless `--lr-student`
    is given. TEXT is POOLING:NAME with cls, mean or clip, hashed_ngrams:WIDTH, or FILE.yaml with the keys of
    model.text_encoder; with --transfer, the matrix has a column for each pair of encoders.

    With `--in-order` a student is trained on the first SET for evaluation.epochs epochs with its learned rates, then on
    the second one with a new optimiser and the rates of that, and so on. Data, model and evaluation settings must be
    those of the first SET, whose seed and experts are used for students and baselines.
    """

    def check(study: Study, file: str) -> None:
        check_models_and_data(study, file, invocation.line)

    with invocation.waiting("loading PyTorch"):
        import rayvldd.distillation.distilled_set  # noqa: F401  # here, because it takes seconds

        parsed, faults = _read_options(coresets, image_encoder, transfer, lr_student)
    if breakdown and (transfer is not None or text_encoder is not None):
        problem = "given together with --transfer or --text-encoder"
        faults.append(Fault("--breakdown", problem, "--image-encoder takes one encoder"))
    text_encoders, more = _read_text_options(text_encoder, conversion)
    faults += more
    is_matrix = bool(transfer) or len(text_encoders) > 1
    further, errors = read_further(robustness, on_study, zero_shot, template, privacy)
    order, more = read_order(places, in_order, later_rate, {"breakdown": breakdown, "privacy": privacy})
    faults += more
    with together_with(faults, "rayvldd evaluate --help", errors), invocation.waiting("checking sets, models and data"):
        sets = load_sets(places, invocation.workspace_folder)
        if not trust:
            own, line = invocation.workspace_folder, f"{invocation.line} --trust"
            refuse_untrusted(sets, own, invocation.overrides, parsed.encoders, next_command=line)
        groups = group_sets(
            sets, parsed.encoders, invocation.overrides, check, invocation.line, text_encoders, conversion, order
        )
        refuse_further(further, groups, invocation.line)
    workspace = writable_workspace(invocation)  # after the sets: a wrong name must leave no folder
    options = EvaluationOptions(students, split, full_data, parsed.methods, parsed.rates, further)
    if invocation.dry_run:
        return _dry_run(invocation, groups, options)

    with invocation.waiting("loading Ray"):
        from rayvldd.runtime.actor_pool import keeping_actors
        from rayvldd.runtime.cluster import start_ray

    scored: dict[SetGroup, GroupScores] = {}
    lost: list[Breakdown] = []
    with invocation.display() as display, start_ray(None, None, display), keeping_actors():
        for name, distilled in sets.items():
            display.line(f"{name}\n{distilled.describe()}")
        for number, group in enumerate(groups, start=1):
            if len(groups) > 1:
                display.begin_phase(number, len(groups))
            task, scored[group] = evaluate_group(group, workspace, options, display, invocation.line)
            if not is_matrix:
                _show_group(invocation, group, scored[group], options)
            show_further(invocation, scored[group].further)
            if breakdown:
                lost.append(show_breakdown(invocation, task, group.sets, scored[group].ranks, split, group.measured_on))
    if is_matrix:
        _show_matrix(invocation, scored, split)
    ranks = encoder_ranks(scored)
    show_further(invocation, ranks)
    published = show_published(invocation) if reference else None
    kept = keep_evaluation(scored, options, workspace, invocation.line, lost, ranks)
    show_split(invocation, split)
    invocation.say(f"scores saved in {kept.file}")
    invocation.finish(_output_of(kept, published, has_breakdown=breakdown))


def _output_of(kept: EvaluatedSets, published: "list[PublishedRow] | None", *, has_breakdown: bool) -> _Output:
    demanded = {"breakdown": has_breakdown, "further": bool(kept.scores.further)}
    absent = {name for name, is_given in demanded.items() if not is_given}
    output = _Output(**dict(kept.scores), scores=kept.file, absent=absent)
    return output if published is None else output.model_copy(update={"published": published})


def _show_group(invocation: Invocation, group: SetGroup, scores: GroupScores, options: EvaluationOptions) -> None:
    """Show the recalls of a group, how its students were trained, and its differences to real pairs."""
    from rayvldd.reports.differences import differences_table

    split = options.split
    invocation.show(table_of_group(group, scores.recalls, split))
    if group.order:
        invocation.say(f"trained in order: {group.words_of_rates(options.lr_student)}")
    show_training(invocation, {name: one.rate for name, one in scores.coresets.items()}, scores.recipe)
    if differences := differences_of(group, scores):
        title = f"Mean recall on the same {split} images, set minus real pairs (points)"
        invocation.show(differences_table(differences, title))


@dataclass(frozen=True)
class _Options:
    """The parsed options."""

    methods: list[str]
    encoders: dict[str, "ImageEncoderSettings"]
    """Encoders for the students; empty: each set's own encoder."""
    rates: tuple[float, float] | None


def _read_options(
    coresets: str | None, image_encoder: str | None, transfer: str | None, lr_student: str | None
) -> tuple[_Options, list[Fault]]:
    methods, faults = read_methods(coresets, "--coresets") if coresets is not None else ([], [])
    encoders: dict[str, ImageEncoderSettings] = {}
    if image_encoder is not None and transfer is not None:
        faults.append(Fault("--image-encoder", "given together with --transfer", "one of the two"))
    elif image_encoder is not None or transfer is not None:
        option = "--transfer" if transfer is not None else "--image-encoder"
        entries = words(transfer) if transfer is not None else [str(image_encoder)]
        encoders, more = read_encoders(entries, option)
        faults += more if entries else [Fault(option, "names no encoder", "timm names, separated by commas")]
    rates, more = read_rates(lr_student)
    return _Options(methods, encoders, rates), [*faults, *more]


def _read_text_options(
    text_encoder: str | None, conversion: TextConversion
) -> tuple[dict[str, "TextEncoderSettings"], list[Fault]]:
    entries = words(text_encoder or "")
    encoders, faults = read_text_encoders(entries, "--text-encoder")
    if text_encoder is not None and not entries:
        faults.append(Fault("--text-encoder", "names no encoder", TEXT_FORMS))
    if text_encoder is None and conversion != "auto":
        faults.append(Fault("--texts", "given without --text-encoder", "both together"))
    return encoders, faults


def _show_matrix(invocation: Invocation, scored: Mapping[SetGroup, GroupScores], split: str) -> None:
    """Print one table per base: sets that differ in other settings than the encoder have another full-data bound."""
    from rayvldd.reports.tables import transfer_table

    for base in dict.fromkeys(group.base for group in scored):
        columns: dict[str, dict[str, Sequence[RetrievalMetrics]]] = {}
        made_with: dict[str, str] = {}
        for group, scores in scored.items():
            if group.base == base:
                columns.setdefault(group.encoder, {}).update(scores.recalls)
                made_with |= group.own_column
        title = f"Mean recall on {split} (%) of students on each encoder, and its share of that of all pairs"
        invocation.show(transfer_table(columns, made_with, title, full_data=ALL_PAIRS))
        for group, scores in scored.items():
            if group.base == base and scores.recipe:
                invocation.say(f"all pairs, {group.encoder}: {scores.recipe.words}")


def _dry_run(invocation: Invocation, groups: Sequence[SetGroup], options: EvaluationOptions) -> None:
    plan: PlanLines = {}
    for group in groups:
        show_settings(invocation, group.study)
        count = options.students or group.study.evaluation.num_test_students
        for name in group.rows:
            plan[f"{name} on {group.encoder}"] = f"{count} students, scored on {options.split}"
            if options.further.robustness:
                plan[f"{stored_name(name)} on {group.encoder}"] = f"{count} students"
        if options.coresets:
            sizes = " and ".join(map(str, sorted(set(map(group.num_pairs, group.rows)))))
            plan[f"{', '.join(options.coresets)} on {group.encoder}"] = (
                f"{count} students on {sizes} real pairs each; learning rate: {words_of_rates(group.study)}"
            )
        if options.full_data:
            plan[f"models of {ALL_PAIRS} on {group.encoder}"] = words_of_bound(group.study, count)
    show_plan(invocation, plan)
    settings = [group.study.model_dump(mode="json") for group in groups]
    invocation.finish(_PlannedEvaluation(split=options.split, settings=settings, plan=plan))
