"""Node groups of a cluster file and their cost per hour."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayvldd.clusters.cluster_file import ClusterFile
from rayvldd.clusters.kubernetes_rules import containers_of
from rayvldd.clusters.slurm_rules import directives_of


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one type."""

    name: str
    machine: str
    """Machine type of the provider; an address for on-premises machines."""
    fewest: int
    most: int
    resources: dict[str, Any]
    """CPUs, GPUs and other resources of one node that the file declares; empty if Ray detects them."""
    is_spot: bool
    usd_per_hour: float | None
    """On-demand price of one node; None if the file has none."""


@dataclass(frozen=True)
class Prices:
    """Dated table of prices in `metadata.prices` of a file."""

    usd_per_hour: Mapping[str, float]
    what: str = ""
    """Description of the prices, with region and date."""
    source: str = ""
    lookup: str = ""
    """How to look up current prices."""


def prices_of(file: ClusterFile) -> Prices:
    """Return the prices in a file; an empty table if it has none."""
    if file.kind in ("kubernetes", "slurm"):
        return Prices({})
    prices = (file.config.get("metadata") or {}).get("prices") or {}
    table = {str(name): float(usd) for name, usd in (prices.get("usd_per_hour") or {}).items()}
    return Prices(table, *(str(prices.get(key, "")) for key in ("what", "source", "lookup")))


def node_groups(file: ClusterFile, config: Mapping[str, Any]) -> list[NodeGroup]:
    """Return the node groups of a file, the head node first.

    Args:
        file: The file.
        config: The file with Ray's defaults; not used for Kubernetes and Slurm.
    """
    if file.kind == "kubernetes":
        return [
            group
            for cluster in file.documents
            if cluster["kind"] == "RayCluster"
            for group in _pods_of(cluster["spec"])
        ]
    if file.kind == "slurm":
        return [_nodes_of_job(directives_of(file.text))]
    provider = config["provider"]
    if provider["type"] == "local":
        workers = [str(address) for address in provider.get("worker_ips") or []]
        head = NodeGroup("head", str(provider.get("head_ip")), 1, 1, {}, False, None)
        return [head, *(NodeGroup("worker", address, 1, 1, {}, False, None) for address in workers)]
    prices, head_type = prices_of(file).usd_per_hour, config["head_node_type"]
    groups = [
        _node_group(name, node_type, name == head_type, config["max_workers"], prices)
        for name, node_type in config["available_node_types"].items()
    ]
    return sorted(groups, key=lambda group: group.name != head_type)


def _node_group(
    name: str, node_type: Mapping[str, Any], is_head: bool, max_workers: int, prices: Mapping[str, float]
) -> NodeGroup:
    node = node_type["node_config"]
    machine = str(node.get("InstanceType") or node.get("machineType") or "")
    scheduling = node.get("scheduling") or {}
    if isinstance(scheduling, list):
        scheduling = {key: value for entry in scheduling for key, value in entry.items()}
    is_spot = (
        node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or scheduling.get("provisioningModel") == "SPOT"
        or bool(scheduling.get("preemptible"))
    )
    fewest = 1 if is_head else int(node_type.get("min_workers", 0))
    most = 1 if is_head else min(int(node_type.get("max_workers", max_workers)), max_workers)
    return NodeGroup(name, machine, fewest, most, dict(node_type["resources"]), is_spot, prices.get(machine))


def _nodes_of_job(directives: Mapping[str, str]) -> NodeGroup:
    """The nodes of a Slurm job; all of them start at once."""
    names = {"cpus-per-task": "CPU", "gpus-per-node": "GPU", "mem": "memory"}
    resources = {name: directives[option] for option, name in names.items() if option in directives}
    count = int(directives.get("nodes") or 1)
    return NodeGroup("node", directives.get("partition", ""), count, count, resources, False, None)


def _pods_of(spec: Mapping[str, Any]) -> list[NodeGroup]:
    groups = [NodeGroup("head", _image_of(spec["headGroupSpec"]), 1, 1, _limits(spec["headGroupSpec"]), False, None)]
    for group in spec.get("workerGroupSpecs") or []:
        fewest, most = int(group["minReplicas"]), int(group["maxReplicas"])
        groups.append(NodeGroup(group["groupName"], _image_of(group), fewest, most, _limits(group), False, None))
    return groups


def _image_of(group: Mapping[str, Any]) -> str:
    containers = group["template"].get("spec", {}).get("containers", [])
    return str(containers[0].get("image", "")) if containers else ""


def _limits(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits of the last container that has any, which is the Ray container of the pod."""
    for container in containers_of(group["template"]):
        if container.get("resources", {}).get("limits"):
            return dict(container["resources"]["limits"])
    return {}


def usd_per_hour(groups: list[NodeGroup]) -> tuple[float, float] | None:
    """Return minimum and maximum cost of all nodes per hour at on-demand prices; None if a price is missing."""
    if not groups or any(group.usd_per_hour is None for group in groups):
        return None
    least = sum(group.fewest * (group.usd_per_hour or 0.0) for group in groups)
    most = sum(group.most * (group.usd_per_hour or 0.0) for group in groups)
    return round(least, 4), round(most, 4)
