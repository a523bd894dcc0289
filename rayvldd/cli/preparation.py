"""Checks before any work: the study file, then the workspace, then models and data together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rayvldd.cli import completion
from rayvldd.cli.invocation import Invocation
from rayvldd.cli.output import PlanLines, PlanOutput
from rayvldd.config.loading import dump_changes, load_study
from rayvldd.config.search_faults import refuse_one_point
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, DataError, Fault, InputError, ModelError, next_after

if TYPE_CHECKING:
    from rayvldd.experts.store.expert_records import ExpertRecords
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.workspace import Workspace

OnTry = Callable[[str, int, int, str], None]
"""Called with what is tried, the number of models done, their total and a name."""

_SCENES = 32
"""Number of toy scenes whose captions are tested; all captions are similar."""


_SAID_AT_ONCE = 3
"""Faults of the data that are shown before the models are tried; all are shown after it."""


@dataclass(frozen=True)
class RealData:
    """What the annotations of a study say about its data."""

    num_train: int
    """Training images."""
    captions: list[str]
    """All captions; of toy scenes some."""
    errors: list[InputError]
    """Faults of the annotations."""


@dataclass(frozen=True)
class ModelsTry:
    """A try of the models of a study that passed."""

    before: str | None
    """Date of the earlier try that was not repeated; None if the models were tried now."""
    key: str
    """Hash of everything that the outcome depends on."""
    ingredients: Mapping[str, str] | None
    """Its parts, by name; None if one cannot be identified, so that the try is repeated every time."""

    def note(self, workspace: "Workspace") -> None:
        """Note it in the workspace, once everything else that a command checks has passed, too."""
        from rayvldd.records.passed_try import note_passed

        if self.before is None and self.ingredients is not None:
            note_passed(workspace.root, self.key, self.ingredients)


study_argument = click.argument(
    "study_file", metavar="STUDY", type=click.Path(path_type=Path), shell_complete=completion.study_files
)
"""The study file; the loader checks whether it exists and suggests similar names."""

store_option = click.option(
    "--store",
    "store_uri",
    envvar="RAYVLDD_STORE",
    show_envvar=True,
    metavar="URI",
    help="Store of experts: a folder, s3://BUCKET/PREFIX, or object-store://NAME in the Ray cluster. Default: in "
    "the workspace.",
)


def writable_store(uri: str | None, workspace: "Workspace") -> "ExpertStore":
    """The store of experts at an address. A folder or bucket without experts is tested by writing to it.

    One with experts may be read-only.

    Raises:
        InputError: if the address is invalid.
        StoreError: if the store cannot be read or written.
    """
    from rayvldd.experts.store.expert_store import open_store

    store = open_store(uri, workspace)
    _check_writable(store)
    return store


def writable_records(uri: str | None, workspace: "Workspace") -> "ExpertRecords":
    """The records of such a store, for commands that need no tensors; see :func:`writable_store`."""
    from rayvldd.experts.store.addresses import open_records

    records = open_records(uri, workspace)
    _check_writable(records)
    return records


def _check_writable(records: "ExpertRecords") -> None:
    from rayvldd.storage.storage import ChecksWriting

    if isinstance(records.storage, ChecksWriting) and not records.storage.names():
        records.storage.check_writable()


@contextmanager
def reachable(store: "ExpertRecords") -> Iterator[None]:
    """Connect to the Ray cluster of a store within the block, if the store is in the cluster's object store.

    Raises:
        RayvlddError: if no cluster is running; a local Ray would delete the store at the end of the command.
    """
    from rayvldd.experts.store.addresses import lives_in_ray

    if not lives_in_ray(store):
        yield
        return
    from rayvldd.runtime.cluster import start_ray

    with start_ray("auto", None):
        yield


def loaded_study(
    invocation: Invocation, file: Path, *extra_overrides: str, searches: bool = False
) -> tuple[Study, "Workspace"]:
    """Load a study, whose file alone is checked, and the workspace, which is created if it is missing.

    Args:
        invocation: Overrides and workspace.
        file: The study file.
        extra_overrides: ``KEY=VALUE`` from options of the command, which take precedence over ``--set``.
        searches: Whether the study must have a search space.

    Raises:
        ConfigError: if the file has faults or has no search space.
        StoreError: if the workspace cannot be written.
    """
    study = study_of(invocation, file, *extra_overrides)
    if searches:
        refuse_one_point(study, str(file))
    return study, writable_workspace(invocation)


def study_of(invocation: Invocation, file: Path, *extra_overrides: str) -> Study:
    """Load a study with the overrides of the command line.

    Raises:
        ConfigError: if the file has faults; its next command is the same one, with all of its options.
    """
    try:
        return load_study(file, [*invocation.overrides, *extra_overrides])
    except ConfigError as error:
        what, then, command = error.next_command.rpartition("then: ")
        if command and not then:  # no file to correct: there is none of this name
            raise
        raise ConfigError(
            error.faults, next_command=f"{what or 'correct the file, '}then: {invocation.line}"
        ) from error


def check_study(
    invocation: Invocation,
    study: Study,
    file: Path,
    *,
    num_pairs: int | None = None,
    distils: bool = False,
    on_this_machine: bool = False,
    data: RealData | None = None,
) -> None:
    """Check all requirements of a run, before any work.

    Args:
        invocation: The command.
        study: The study.
        file: Its file, for the faults.
        num_pairs: Largest number of pairs of the command's ``--pairs``, in place of the study's.
        distils: Whether the model must be differentiable for the study's method.
        on_this_machine: Whether this machine must have the study's resources.
        data: Its data, if the annotations were read before.

    Raises:
        ConfigError: if the study needs more resources than this machine has.
        ModelError: if a model does not exist or is not compatible.
        DataError: if the dataset has faults.
        InputError: if both models and data have faults.
    """
    methods = " or ".join(method.name for method in study.methods())
    with invocation.display() as display:
        if data is None:
            with display.during("reading the data"):
                data = _read_data(study)
        for line in _lines_of_faults(data.errors or _pair_errors(study, num_pairs, data.num_train), str(file)):
            display.warn(line)
    invocation.say_loading(f"trying the encoders{f' and a step of {methods}' if distils else ''}")
    with invocation.display() as display:
        display.progress("loading PyTorch", 0, 1)
        if on_this_machine:
            _check_resources(study, str(file), invocation.line)
        check_models_and_data(study, str(file), invocation.line, num_pairs, data=data, on_try=display.progress)
        if distils:
            _check_initial_sets(study, str(file), invocation.line)
            _check_step(study, str(file), invocation.line, display.progress)


def check_study_once(
    invocation: Invocation,
    study: Study,
    file: Path,
    workspace: "Workspace",
    *,
    on_this_machine: bool = False,
    again: bool = False,
) -> ModelsTry:
    """Check all requirements of a distillation, but try no models that passed before with everything the same.

    Args:
        invocation: The command.
        study: The study.
        file: Its file, for the faults.
        workspace: Has notes of the tries that passed.
        on_this_machine: Whether this machine must have the study's resources.
        again: Whether the models are tried in any case.

    Raises:
        InputError: as :func:`check_study`.
    """
    from rayvldd.data.array_cache import fingerprint
    from rayvldd.library.model_tries import ingredients_of_try
    from rayvldd.records.passed_try import passed_before
    from rayvldd.runtime.machine import may_have_gpus

    with invocation.waiting("reading the data"):
        data = _read_data(study)
    ingredients = ingredients_of_try(study, data.captions)
    key = fingerprint(ingredients)
    tried = passed_before(workspace.root, key) if ingredients and not again else None
    if tried is None:
        check_study(invocation, study, file, distils=True, on_this_machine=on_this_machine, data=data)
        ingredients = ingredients_of_try(study, data.captions)  # the try itself fetches files into the caches of hubs
        return ModelsTry(None, fingerprint(ingredients), ingredients)
    if on_this_machine:
        if may_have_gpus():
            invocation.say_loading("asking it for GPUs")
        _check_resources(study, str(file), invocation.line)
    _raise_together(data.errors or _pair_errors(study, None, data.num_train), str(file), invocation.line)
    return ModelsTry(tried, key, ingredients)


def checked_study(
    invocation: Invocation,
    file: Path,
    *extra_overrides: str,
    num_pairs: int | None = None,
    distils: bool = False,
    on_this_machine: bool = False,
) -> tuple[Study, "Workspace"]:
    """Load a study and check all requirements of a run; see :func:`loaded_study` and :func:`check_study`."""
    study, workspace = loaded_study(invocation, file, *extra_overrides)
    check_study(invocation, study, file, num_pairs=num_pairs, distils=distils, on_this_machine=on_this_machine)
    return study, workspace


def _check_resources(study: Study, file: str, next_command: str) -> None:
    from rayvldd.runtime.machine import faults_of_graphs, faults_of_resources

    found = [*faults_of_resources(study.resources), *faults_of_graphs(study)]
    faults = [_in_file(fault, file) for fault in found]
    if faults:
        raise ConfigError(faults, next_command=f"correct them, then: {next_command}")


def _check_initial_sets(study: Study, file: str, next_command: str) -> None:
    """Open the distilled sets that the study starts from, where it names any."""
    if not study.initial_sets():
        return
    from rayvldd.distillation.initialisation import faults_of_initial_sets

    faults = [_in_file(fault, file) for fault in faults_of_initial_sets(study)]
    if faults:
        raise ConfigError(faults, next_command=f"correct them, then: {next_command}")


def _check_step(study: Study, file: str, next_command: str, on_try: OnTry) -> None:
    """Run one step of the study's method on blank images, for every model of the study."""
    from rayvldd.distillation.trial_step import faults_of_step

    points = {point.model.model_dump_json(): point for point in study.expert_points()}
    faults = []
    for done, point in enumerate(points.values()):
        on_try("trying a step", done, len(points), f"{point.distillation.method} on {point.model.image_encoder.name}")
        faults += [_in_file(fault, file) for fault in faults_of_step(point)]
    if faults:
        raise ModelError(faults, next_command=f"correct them, then: {next_command}")


def writable_workspace(invocation: Invocation) -> "Workspace":
    """The workspace of the command line, which is created if it is missing.

    Raises:
        StoreError: if it cannot be written.
    """
    from rayvldd.workspace import Workspace

    workspace = Workspace(invocation.workspace_folder)
    workspace.check_writable()
    return workspace


def check_models_and_data(
    study: Study,
    file: str,
    next_command: str,
    num_pairs: int | None = None,
    *,
    data: RealData | None = None,
    on_try: OnTry | None = None,
) -> None:
    """Check all models and data of a study, and report the faults of both at once.

    Args:
        study: The study, with or without a search space.
        file: File of its settings, for the faults.
        next_command: Command to run once the faults are corrected.
        num_pairs: Largest number of pairs of ``--pairs``; default: that of the study.
        data: Its data, if the annotations were read before.
        on_try: Called before the encoders of a model are tried.
    """
    data = data or _read_data(study)
    data_errors = data.errors or _pair_errors(study, num_pairs, data.num_train)
    _raise_together([*_model_errors(study, data.captions, on_try), *data_errors], file, next_command)


def _lines_of_faults(errors: Sequence[InputError], file: str) -> list[str]:
    """Lines about faults that are found in a moment, while what takes longer is still checked; none without faults."""
    faults = [_in_file(fault, file) for error in errors for fault in error.faults]
    if not faults:
        return []
    more = [f"  and {len(faults) - _SAID_AT_ONCE} more"] if len(faults) > _SAID_AT_ONCE else []
    first = [f"  {fault}" for fault in faults[:_SAID_AT_ONCE]]
    return ["found in the data; the models are tried all the same:", *first, *more]


def _raise_together(found: Sequence[InputError], file: str, next_command: str) -> None:
    """Raise one error with the faults of all, each fault once; nothing without an error."""
    errors: dict[type[InputError], list[Fault]] = {}
    for error in found:
        known = errors.setdefault(type(error), [])
        known += [fault for fault in error.faults if fault not in known]
    if errors:
        kind = next(iter(errors)) if len(errors) == 1 else InputError
        faults = [_in_file(fault, file) for of_kind in errors.values() for fault in of_kind]
        raise kind(faults, next_command=next_after(found, next_command))


def show_settings(invocation: Invocation, study: Study) -> None:
    """Print the settings that differ from their defaults, with overrides and environment variables applied.

    The object of ``--json`` has all settings.
    """
    overridden = [override.partition("=")[0] for override in invocation.overrides]
    invocation.say("# The settings that differ from their defaults:")
    invocation.say(dump_changes(study, overridden))


def dry_run(invocation: Invocation, study: Study, plan: PlanLines) -> None:
    """Print the settings and the plan, for ``--dry-run``."""
    show_settings(invocation, study)
    show_plan(invocation, plan)
    invocation.finish(PlanOutput(study=study.name, settings=study.model_dump(mode="json"), plan=plan))


def show_plan(invocation: Invocation, plan: PlanLines) -> None:
    """Print the plan, one line per part."""
    invocation.say("# What would be done:")
    for line in lines_of_plan(plan):
        invocation.say(line)


def lines_of_plan(plan: PlanLines) -> list[str]:
    """One line per part of a plan: a key of ours as words, another name, e.g. with a path or an encoder, as it is."""
    titles = [name.replace("_", " ") if name.isidentifier() else name for name in plan]
    width = max(map(len, titles))
    return [f"{title:{width}}  {value}" for title, value in zip(titles, plan.values(), strict=True)]


def _model_errors(study: Study, captions: Sequence[str], on_try: OnTry | None) -> list[InputError]:
    from rayvldd.models.retrieval_task import check_models, faults_of_further_encoder

    models = {point.model.model_dump_json(): point.model for point in study.expert_points()}
    errors: list[InputError] = []
    for done, model in enumerate(models.values()):
        if on_try:
            names = model.image_encoder.name, model.text_encoder.name or model.text_encoder.pooling
            on_try("trying encoders", done, len(models), " and ".join(names))
        try:
            check_models(model, study.data.image_size, captions)
        except ModelError as error:
            errors.append(error)
        for key, encoder in (study.further_image_encoders() if model.protocol == "heads_only" else {}).items():
            if faults := faults_of_further_encoder(model, encoder, study.data.image_size, key):
                errors.append(ModelError(faults))
    return errors


def _read_data(study: Study) -> RealData:
    """Read the annotations of a study."""
    from rayvldd.data.annotations import read_records
    from rayvldd.data.toy_scenes import iterate_scenes

    if study.data.source == "toy_scenes":
        scenes = islice(iterate_scenes(study.data, "train"), _SCENES)
        return RealData(study.data.num_train, [caption for scene in scenes for caption in scene.captions], [])
    try:
        records = read_records(study.data)
    except DataError as error:
        return RealData(0, [], [error])
    counts = [len(record.captions) for record in records if record.split == "train"]
    # An image is left out with all of its captions: this many stay in any case.
    num_train = len(counts) - round(study.data.drop_pairs * sum(counts)) // min(counts)
    return RealData(num_train, [caption for record in records for caption in record.captions], [])


def _pair_errors(study: Study, num_pairs: int | None, num_train: int) -> list[InputError]:
    key = "distillation.num_pairs"
    where, most = ("--pairs", num_pairs) if num_pairs else (key, study.largest(key))
    if most <= num_train:
        return []
    return [DataError([Fault(where, f"got {most}", f"2 to {num_train}, the training images")])]


def _in_file(fault: Fault, file: str) -> Fault:
    """Add the study file to a fault that names only a setting."""
    section = fault.where.split(".")[0].split(":")[0]
    return Fault(f"{file}: {fault.where}", fault.problem, fault.allowed) if section in Study.model_fields else fault
