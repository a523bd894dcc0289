"""Node groups of a cluster file and their cost per hour."""

from collections.abc import Mapping
from dataclasses import dataclass

from rayvldd.clusters.cluster_file import ClusterFile
from rayvldd.clusters.kubernetes_rules import containers_of
from rayvldd.clusters.slurm_rules import directives_of, nodes_of
from rayvldd.records.json_values import JsonObject, list_at, number_at, object_at, objects_at, text_at


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one type."""

    name: str
    machine: str
    """Machine type of the provider; an address for on-premises machines."""
    fewest: int
    most: int
    resources: JsonObject
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
    prices = object_at(file.config, "metadata", "prices")
    listed = object_at(prices, "usd_per_hour")
    table = {str(name): number_at(listed, name) for name in listed}
    return Prices(table, *(text_at(prices, key) for key in ("what", "source", "lookup")))


def node_groups(file: ClusterFile, config: JsonObject) -> list[NodeGroup]:
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
            for group in _pods_of(object_at(cluster, "spec"))
        ]
    if file.kind == "slurm":
        return [_nodes_of_job(directives_of(file.text))]
    provider = object_at(config, "provider")
    if provider["type"] == "local":
        workers = [str(address) for address in list_at(provider, "worker_ips")]
        head = NodeGroup("head", str(provider.get("head_ip")), 1, 1, {}, False, None)
        return [head, *(NodeGroup("worker", address, 1, 1, {}, False, None) for address in workers)]
    prices, head_type = prices_of(file).usd_per_hour, config["head_node_type"]
    max_workers = int(number_at(config, "max_workers"))
    groups = [
        _node_group(name, object_at(config, "available_node_types", name), name == head_type, max_workers, prices)
        for name in object_at(config, "available_node_types")
    ]
    return sorted(groups, key=lambda group: group.name != head_type)


def _node_group(
    name: str, node_type: JsonObject, is_head: bool, max_workers: int, prices: Mapping[str, float]
) -> NodeGroup:
    node = object_at(node_type, "node_config")
    machine = text_at(node, "InstanceType") or text_at(node, "machineType")
    scheduling = dict(object_at(node, "scheduling"))
    for entry in objects_at(node, "scheduling"):
        scheduling |= entry
    is_spot = (
        text_at(node, "InstanceMarketOptions", "MarketType") == "spot"
        or scheduling.get("provisioningModel") == "SPOT"
        or bool(scheduling.get("preemptible"))
    )
    fewest = 1 if is_head else int(number_at(node_type, "min_workers"))
    most = 1 if is_head else min(int(number_at(node_type, "max_workers", default=max_workers)), max_workers)
    return NodeGroup(name, machine, fewest, most, object_at(node_type, "resources"), is_spot, prices.get(machine))


def _nodes_of_job(directives: Mapping[str, str]) -> NodeGroup:
    """The nodes of a Slurm job that has no faults; all of them start at once."""
    names = {"cpus-per-task": "CPU", "gpus-per-node": "GPU", "mem": "memory"}
    resources: JsonObject = {name: directives[option] for option, name in names.items() if option in directives}
    fewest, most = nodes_of(directives) or (1, 1)
    return NodeGroup("node", directives.get("partition", ""), fewest, most, resources, False, None)


def _pods_of(spec: JsonObject) -> list[NodeGroup]:
    head = object_at(spec, "headGroupSpec")
    groups = [NodeGroup("head", _image_of(head), 1, 1, _limits(head), False, None)]
    for group in objects_at(spec, "workerGroupSpecs"):
        fewest, most = int(number_at(group, "minReplicas")), int(number_at(group, "maxReplicas"))
        groups.append(
            NodeGroup(text_at(group, "groupName"), _image_of(group), fewest, most, _limits(group), False, None)
        )
    return groups


def _image_of(group: JsonObject) -> str:
    containers = objects_at(group, "template", "spec", "containers")
    return text_at(containers[0], "image") if containers else ""


def _limits(group: JsonObject) -> JsonObject:
    """Return the limits of the last container that has any, which is the Ray container of the pod."""
    for container in containers_of(object_at(group, "template")):
        if limits := object_at(container, "resources", "limits"):
            return limits
    return {}


def usd_per_hour(groups: list[NodeGroup]) -> tuple[float, float] | None:
    """Return minimum and maximum cost of all nodes per hour at on-demand prices; None if a price is missing."""
    if not groups or any(group.usd_per_hour is None for group in groups):
        return None
    least = sum(group.fewest * (group.usd_per_hour or 0.0) for group in groups)
    most = sum(group.most * (group.usd_per_hour or 0.0) for group in groups)
    return round(least, 4), round(most, 4)
