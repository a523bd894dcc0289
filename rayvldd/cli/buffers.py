"""``rayvldd experts import``: import of trajectories from the released code of Wu et al."""

import shlex
from collections.abc import Callable
from pathlib import Path

import click

from rayvldd.cli.invocation import F, Invocation, RunCommand
from rayvldd.cli.output import Output, PlanLines
from rayvldd.cli.preparation import checked_study, dry_run, reachable, store_option, study_argument, writable_store
from rayvldd.config.study import Study, changes_experts
from rayvldd.errors import ConfigError, Fault, InputError


def _files_option(flag: str, parameter: str, text: str) -> Callable[[F], F]:
    return click.option(
        flag, parameter, type=click.Path(path_type=Path), multiple=True, required=True, metavar="FILE", help=text
    )


class _Imported(Output):
    store: str
    key: str
    imported: str
    """Digest of the files."""
    num_experts: int
    made: int
    next_command: str


@click.command(
    "import",
    cls=RunCommand,
    kept="every expert that was imported",
    examples=[
        "rayvldd experts import search_spaces/quickstart.yaml --image-buffer img_replay_buffer_0.pt "
        "--text-buffer txt_replay_buffer_0.pt",
        "rayvldd experts import search_spaces/quickstart.yaml --image-buffer i_0.pt --text-buffer t_0.pt "
        "--image-buffer i_1.pt --text-buffer t_1.pt",
    ],
)
@study_argument
@_files_option("--image-buffer", "image_buffers", "img_replay_buffer_N.pt. May be repeated.")
@_files_option(
    "--text-buffer", "text_buffers", "txt_replay_buffer_N.pt of the same experts, in the same order. May be repeated."
)
@store_option
@click.pass_obj
def import_command(
    invocation: Invocation,
    study_file: Path,
    image_buffers: tuple[Path, ...],
    text_buffers: tuple[Path, ...],
    store_uri: str | None,
) -> None:
    """Import trajectories of the released code as experts for STUDY.

    The files do not contain the settings of their training, so STUDY states them. Their tensors are checked against
    the parameters of its model and stored under a separate key, so they are never mistaken for experts trained here.
    The command prints the settings for a sweep that uses them. Only tensors are read from the files.
    """
    _check_paired(image_buffers, text_buffers)
    study, workspace = checked_study(invocation, study_file)
    _check_one_set(study, study_file)

    from rayvldd.data.prepared_arrays import open_cache
    from rayvldd.experts.recipe import expert_recipe
    from rayvldd.experts.released_buffers import BufferPair, digest_of_buffers, read_buffers
    from rayvldd.experts.store.buffer_import import import_experts
    from rayvldd.hyperparameter_search.preparation import epochs_of
    from rayvldd.models.retrieval_task import load_task

    store = writable_store(store_uri, workspace)
    pairs = [BufferPair(*pair) for pair in zip(image_buffers, text_buffers, strict=True)]
    (point,) = study.expert_points()
    with invocation.display() as display, reachable(store):
        digest = digest_of_buffers(pairs, display.progress)
        declared = point.at({"experts.imported": digest})
        cache = open_cache(workspace.cache)
        task = load_task(declared.data, declared.model, cache, on_progress=display.progress)
        layouts = task.model.image_layout, task.model.text_layout
        experts = read_buffers(pairs, *layouts, point.experts.epochs, display.progress)
        recipe, num_experts = expert_recipe(declared, task.fingerprints), len(experts)
        taken = [f"experts.imported={digest}", f"experts.num_experts={num_experts}"]
        plan: PlanLines = {"store": store.uri, "key": recipe.key, "imported": digest, "num_experts": num_experts}
        if invocation.dry_run:
            return dry_run(invocation, declared, plan)
        kept = import_experts(
            task,
            recipe,
            experts,
            epochs_of(study, point),
            store,
            lambda done, total: display.progress("importing", done, total),
        )
    overrides = [word for override in (*invocation.overrides, *taken) for word in ("--set", override)]
    where = ["--store", store_uri] if store_uri else []
    command = invocation.in_this_workspace(shlex.join(["rayvldd", "sweep", str(study_file), *overrides, *where]))
    invocation.say(f"{num_experts} experts in {store.uri} under {recipe.key}, {kept} of them new")
    invocation.say("Their recall is unknown: the files do not contain it, and nothing was trained.")
    invocation.say_next(command)
    invocation.finish(_Imported.model_validate({**plan, "made": kept, "next_command": command}))


def _check_paired(image_buffers: tuple[Path, ...], text_buffers: tuple[Path, ...]) -> None:
    if len(image_buffers) != len(text_buffers):
        problem = f"given {len(text_buffers)} times, --image-buffer {len(image_buffers)} times"
        fault = Fault("--text-buffer", problem, "the same number of both, in the same order")
        raise InputError([fault], next_command="the same command with both files of each pair")


def _check_one_set(study: Study, file: Path) -> None:
    """Reject a study whose points need different experts, because a buffer contains only one kind."""
    if len(study.expert_points()) == 1:
        return
    faults = [
        Fault(f"{file}: search.space.{key}", "is searched, and each value needs its own experts", "one value")
        for key in study.search.space
        if changes_experts(key)
    ]
    raise ConfigError(
        faults, next_command=f"the same command with --set {faults[0].where.partition('space.')[2]}=VALUE"
    )
