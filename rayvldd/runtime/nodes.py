"""What must be true of every node of a cluster before a study begins on it."""

import secrets
from contextlib import suppress
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayvldd.clusters.versions import Versions
from rayvldd.errors import RayvlddError, message_of
from rayvldd.runtime.versions import mismatch

_ANSWER_S = 120.0
"""Seconds that a node has to start a process and look."""


def refuse_unfit_nodes(folder: Path) -> None:
    """Look from every node of the connected cluster whether it has this rayvldd and sees a folder, all at once.

    A node that does not answer in time is not held against the cluster: it may be about to go, and its work is done
    elsewhere then. Nodes that come later are not looked at.

    Args:
        folder: Must be the same folder on all machines; it is there on this one.

    Raises:
        RayvlddError: naming every node that has other releases, or does not see the folder.
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
    """By address: the releases, or why they cannot be told, and whether the mark is seen."""
    look, asked = ray.remote(_look), {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked[options.remote(mark)] = node["NodeManagerAddress"]
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
    for ref in late:
        ray.cancel(ref, force=True)
    seen: dict[str, tuple[Versions | str, bool]] = {}
    for ref in answered:
        try:
            seen[asked[ref]] = ray.get(ref)
        except ray.exceptions.RayTaskError as error:  # the function could not even be imported
            seen[asked[ref]] = (f"has no such rayvldd: {message_of(error)}", False)
        except ray.exceptions.RayError:
            with suppress(KeyError):  # the node is gone
                del seen[asked[ref]]
    return seen


def _look(mark: Path) -> tuple[Versions, bool]:
    return Versions.here(), mark.is_file()
