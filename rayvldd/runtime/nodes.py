"""Check every node of a cluster before a study starts: versions and access to the workspace."""

import secrets
from contextlib import suppress
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayvldd.clusters.versions import Versions
from rayvldd.errors import RayvlddError, message_of
from rayvldd.runtime.versions import mismatch

_ANSWER_S = 120.0
"""Time limit in seconds for a node to start a process and report."""


def refuse_unfit_nodes(folder: Path) -> None:
    """Check on all nodes of the connected cluster in parallel that they have this rayvldd and access to a folder.

    A node that does not answer in time is ignored: it may be shutting down, and then its work is done elsewhere. Nodes
    that join later are not checked.

    Args:
        folder: Folder that must be the same on all machines; it exists on this one.

    Raises:
        RayvlddError: naming every node with other releases or without access to the folder.
    """
    mark = folder / f".seen-{secrets.token_hex(4)}"
    mark.touch()
    try:
        seen = _looked_from_every_node(mark)
    finally:
        mark.unlink()
    here = Versions.here()
    faults = [
        f"{node}: {fault}"
        for node, (versions, _) in seen.items()
        for fault in ([versions] if isinstance(versions, str) else here.faults_against(versions))
    ]
    if faults:
        raise mismatch("the cluster", faults)
    blind = sorted(node for node, (_, sees) in seen.items() if not sees)
    if blind:
        raise RayvlddError(
            f"--workspace {folder}: not seen from {', '.join(blind)}; "
            f"allowed: a folder that all machines of the cluster see under the same path",
            next_command="the same command with --workspace FOLDER on a shared file system",
        )


def _looked_from_every_node(mark: Path) -> dict[str, tuple[Versions | str, bool]]:
    """By node address: its releases, or the reason why they are unknown, and whether it sees the marker file."""
    look, addresses = ray.remote(_look), {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            addresses[options.remote(mark)] = node["NodeManagerAddress"]
    answered, late = ray.wait(list(addresses), num_returns=len(addresses), timeout=_ANSWER_S)
    for ref in late:
        ray.cancel(ref, force=True)
    seen: dict[str, tuple[Versions | str, bool]] = {}
    for ref in answered:
        try:
            seen[addresses[ref]] = ray.get(ref)
        except ray.exceptions.RayTaskError as error:  # the function could not be imported
            seen[addresses[ref]] = (f"has no such rayvldd: {message_of(error)}", False)
        except ray.exceptions.RayError:
            with suppress(KeyError):  # the node is gone
                del seen[addresses[ref]]
    return seen


def _look(mark: Path) -> tuple[Versions, bool]:
    return Versions.here(), mark.is_file()
