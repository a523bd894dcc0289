"""The checks that come before any work: the study file, then the workspace, then models and data together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rayvldd.cli.invocation import Invocation
from rayvldd.config.loading import dump_study, load_study
from rayvldd.config.search_faults import refuse_one_point
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, DataError, Fault, InputError, ModelError

if TYPE_CHECKING:
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.workspace import Workspace

_SCENES = 32
"""Drawn scenes whose captions are tried: they are all alike."""

study_argument = click.argument("study_file", metavar="STUDY", type=click.Path(path_type=Path))
"""The study file; whether it exists is told by the loader, which knows the nearest name."""

store_option = click.option(
    "--store",
    "store_uri",
    envvar="RAYVLDD_STORE",
    show_envvar=True,
    metavar="URI",
    help="Where experts are kept: a folder, s3://BUCKET/PREFIX, or object-store://NAME in the Ray cluster. Default: in "
    "the workspace.",
)


@contextmanager
def reachable(store: "ExpertStore") -> Iterator[None]:
    """Be connected, inside the block, to the Ray cluster that a store lives in, where it lives in one.

    Raises:
        RayvlddError: when no cluster runs: a Ray of the command's own would take the store with it when it ends.
    """
    from rayvldd.experts.store.addresses import lives_in_ray

    if not lives_in_ray(store):
        yield
        return
    from rayvldd.runtime.cluster import start_ray

    with start_ray("auto", None):
        yield


def checked_study(
    invocation: Invocation,
    file: Path,
    *extra_overrides: str,
    num_pairs: int | None = None,
    distils: bool = False,
    searches: bool = False,
    on_this_machine: bool = False,
) -> tuple[Study, "Workspace"]:
    """Load a study and check all that a run needs, without doing any of it.

    Args:
        invocation: Overrides and workspace.
        file: The study file.
        extra_overrides: ``KEY=VALUE`` of the command's own options, which win over ``--set``.
        num_pairs: The most pairs that the command's own ``--pairs`` asks for, instead of the study's.
        distils: Whether the model must be differentiable as the study's method does it.
        searches: Whether the study must have something to search.
        on_this_machine: Whether a Ray of the command's own must have the study's resources.

    Raises:
        ConfigError: when the file has faults, has nothing to search, or asks for more than this machine has.
        StoreError: when the workspace cannot be written.
        ModelError: when a model does not exist or does not fit.
        DataError: when the dataset has faults.
        InputError: when both models and data have faults.
    """
    study = load_study(file, [*invocation.overrides, *extra_overrides])
    if searches:
        refuse_one_point(study, str(file))
    workspace = writable_workspace(invocation)
    if on_this_machine:
        _check_resources(study, str(file), invocation.line)
    check_models_and_data(study, str(file), invocation.line, num_pairs)
    if distils:
        _check_initial_sets(study, str(file), invocation.line)
        _check_step(study, str(file), invocation.line)
    return study, workspace


def _check_resources(study: Study, file: str, next_command: str) -> None:
    from rayvldd.runtime.machine import faults_of_resources

    faults = [_in_file(fault, file) for fault in faults_of_resources(study.resources)]
    if faults:
        raise ConfigError(faults, next_command=f"mend them, then: {next_command}")


def _check_initial_sets(study: Study, file: str, next_command: str) -> None:
    """Open the distilled sets that the study starts from, where it names any."""
    if "distillation.initialise_from" not in study.space.domains and study.distillation.initialise_from is None:
        return
    from rayvldd.distillation.initialisation import faults_of_initial_sets

    faults = [_in_file(fault, file) for fault in faults_of_initial_sets(study)]
    if faults:
        raise ConfigError(faults, next_command=f"mend them, then: {next_command}")


def _check_step(study: Study, file: str, next_command: str) -> None:
    """Take a step of the study's method on blank images, for every model that it has."""
    from rayvldd.distillation.trial_step import faults_of_step

    points = {point.model.model_dump_json(): point for point in study.expert_points()}
    faults = [_in_file(fault, file) for point in points.values() for fault in faults_of_step(point)]
    if faults:
        raise ModelError(faults, next_command=f"mend them, then: {next_command}")


def writable_workspace(invocation: Invocation) -> "Workspace":
    """The workspace of the command line.

    Raises:
        StoreError: when it cannot be written.
    """
    from rayvldd.workspace import Workspace

    workspace = Workspace(invocation.workspace_folder)
    workspace.check_writable()
    return workspace


def check_models_and_data(study: Study, file: str, next_command: str, num_pairs: int | None = None) -> None:
    """Look at every model and every record of a study, and tell all faults of both at once.

    Args:
        study: The study, with or without a search space.
        file: Where its settings came from, to name in the faults.
        next_command: What to run once they are mended.
        num_pairs: The most pairs that ``--pairs`` asks for; default: what the study does.
    """
    errors: dict[type[InputError], list[Fault]] = {}
    num_train, captions, data_errors = _read_data(study)
    data_errors = data_errors or _pair_errors(study, num_pairs, num_train)
    for error in [*_model_errors(study, captions), *data_errors]:
        known = errors.setdefault(type(error), [])
        known += [fault for fault in error.faults if fault not in known]
    if errors:
        kind = next(iter(errors)) if len(errors) == 1 else InputError
        faults = [_in_file(fault, file) for found in errors.values() for fault in found]
        raise kind(faults, next_command=f"mend them, then: {next_command}")


def show_settings(invocation: Invocation, study: Study) -> None:
    """Print the settings as they are after overrides, defaults and environment."""
    invocation.say("# The settings, resolved:")
    invocation.say(dump_study(study))


def dry_run(invocation: Invocation, study: Study, plan: dict[str, Any]) -> None:
    """Print the settings and what would be done: the whole of ``--dry-run``."""
    show_settings(invocation, study)
    show_plan(invocation, plan)
    invocation.finish({"study": study.name, "settings": study.model_dump(mode="json"), "plan": plan})


def show_plan(invocation: Invocation, plan: dict[str, Any]) -> None:
    """Print what would be done, one line a part."""
    width = max(len(name) for name in plan)
    invocation.say("# What would be done:")
    for name, value in plan.items():
        invocation.say(f"{name.replace('_', ' '):{width}}  {value}")


def _model_errors(study: Study, captions: Sequence[str]) -> list[InputError]:
    from rayvldd.models.retrieval_task import check_models

    models = {point.model.model_dump_json(): point.model for point in study.expert_points()}
    errors: list[InputError] = []
    for model in models.values():
        try:
            check_models(model, study.data.image_size, captions)
        except ModelError as error:
            errors.append(error)
    return errors


def _read_data(study: Study) -> tuple[int, list[str], list[InputError]]:
    """The number of training images, all captions, and what is wrong with the annotations."""
    from rayvldd.data.annotations import read_records
    from rayvldd.data.toy_scenes import iterate_scenes

    if study.data.source == "toy_scenes":
        scenes = islice(iterate_scenes(study.data, "train"), _SCENES)
        return study.data.num_train, [caption for scene in scenes for caption in scene.captions], []
    try:
        records = read_records(study.data)
    except DataError as error:
        return 0, [], [error]
    num_train = sum(record.split == "train" for record in records)
    return num_train, [caption for record in records for caption in record.captions], []


def _pair_errors(study: Study, num_pairs: int | None, num_train: int) -> list[InputError]:
    key = "distillation.num_pairs"
    where, most = ("--pairs", num_pairs) if num_pairs else (key, study.largest(key))
    if most <= num_train:
        return []
    return [DataError([Fault(where, f"got {most}", f"2 to {num_train}, the training images")])]


def _in_file(fault: Fault, file: str) -> Fault:
    """Name the study file where a fault names only a setting in it."""
    section = fault.where.split(".")[0].split(":")[0]
    return Fault(f"{file}: {fault.where}", fault.problem, fault.allowed) if section in Study.model_fields else fault
