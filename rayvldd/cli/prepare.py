"""``rayvldd prepare``: decoding and embedding of a dataset on all machines of a cluster, for later commands."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output, PlanLines
from rayvldd.cli.preparation import checked_study, dry_run, store_option, study_argument, writable_store
from rayvldd.config.study import Study
from rayvldd.errors import Fault, InputError
from rayvldd.printable import counted

if TYPE_CHECKING:
    from rayvldd.runtime.array_pipeline import PreparedArray


class _ArrayOutput(Output):
    title: str
    name: str
    rows: int
    shards: int
    made: int
    made_by_node: dict[str, int]


class _Prepared(Output):
    study: str
    store: str
    arrays: list[_ArrayOutput]


@click.command(
    "prepare",
    cls=RunCommand,
    short_help="Decode images and embed captions on all machines.",
    kept="every shard that was finished",
    examples=[
        "rayvldd prepare search_spaces/quickstart.yaml",
        "rayvldd prepare search_spaces/quickstart.yaml --store s3://bucket/experts --address auto",
        "rayvldd prepare search_spaces/quickstart.yaml --store s3://bucket/experts --node-cache /mnt/disk/rayvldd",
        "rayvldd prepare search_spaces/quickstart.yaml --dry-run",
    ],
)
@study_argument
@store_option
@click.option(
    "--address",
    metavar="ADDRESS",
    help="Run on a Ray cluster: `auto` or HOST:PORT on one of its nodes. Default: this machine.",
)
@click.option(
    "--node-cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A folder on a local disk of each machine, to which arrays are copied on first use. Default: the workspace's "
    "cache, which is common to all machines that share the workspace.",
)
@click.pass_obj
def command(
    invocation: Invocation, study_file: Path, store_uri: str | None, address: str | None, node_cache: Path | None
) -> None:
    """Decode the images and embed the captions of STUDY in parallel, and write them as shards to the store.

    Existing shards are kept. Other commands on this workspace then copy the finished arrays to their cache, shard by
    shard, instead of decoding and embedding. Without this command they do both themselves, on one machine.
    """
    study, workspace = checked_study(invocation, study_file)

    from rayvldd.experts.store.addresses import lives_in_ray

    store = writable_store(store_uri, workspace)
    faults = []
    if lives_in_ray(store):
        allowed = "a folder or s3://BUCKET/PREFIX"
        faults.append(Fault("--store", f"got {store_uri!r}, which ends with its cluster", allowed))
    if node_cache and not node_cache.is_absolute():
        faults.append(Fault("--node-cache", f"got {str(node_cache)!r}", "an absolute path, the same on all machines"))
    if faults:
        raise InputError(faults, next_command="the same command with allowed values")
    if invocation.dry_run:
        return dry_run(invocation, study, _plan(study, store.uri, node_cache))

    from rayvldd.data.array_shards import ArrayShards
    from rayvldd.data.left_out import left_out_so_far, lines_of_left_out
    from rayvldd.data.prepared_arrays import note_prepared
    from rayvldd.runtime.array_pipeline import prepare_study
    from rayvldd.runtime.cluster import start_ray
    from rayvldd.runtime.nodes import refuse_unfit_nodes

    with invocation.display() as display, start_ray(address, None, display):
        if address is not None:
            refuse_unfit_nodes(workspace.root)
        arrays = prepare_study(study, workspace.cache, ArrayShards(store.storage), display.progress)
        display.done()
    note_prepared(workspace, store.uri, node_cache)
    for array in arrays:
        invocation.say(_line_of(array))
    for line in lines_of_left_out(left_out_so_far(study.data, workspace.cache)):
        invocation.say(line)
    invocation.say(f"in {store.uri}; other commands on {workspace.root} read them from there")
    invocation.finish(
        _Prepared(study=study.name, store=store.uri, arrays=[_ArrayOutput(**vars(array)) for array in arrays])
    )


def _plan(study: Study, store_uri: str, node_cache: Path | None) -> PlanLines:
    encoders = {point.model.text_encoder.model_dump_json(): point.model.text_encoder for point in study.expert_points()}
    named = [f"{one.pooling} {one.name}".strip() for one in encoders.values()]
    return {
        "images": f"of {study.data.source} data, at {study.data.image_size} px",
        "captions": f"embedded by {', '.join(named)}",
        "storage": store_uri,
        "copies": f"{node_cache} of each machine" if node_cache else "in the workspace's cache",
    }


def _line_of(array: "PreparedArray") -> str:
    nodes = ", ".join(f"{number} by {node}" for node, number in sorted(array.made_by_node.items()))
    made = f"{array.made} made" + (f" ({nodes})" if len(array.made_by_node) > 1 else "")
    shards = counted(array.shards, "shard")
    return f"{array.title:14} {array.rows:9} rows in {shards}, {made}, {array.shards - array.made} already there"
