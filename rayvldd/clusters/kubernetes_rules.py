"""Rules for KubeRay manifests: valid fields, a token, no access from outside, no keys.

The operator queries the dashboard over the network, so the dashboard cannot listen on loopback. A NetworkPolicy blocks
all other access; users connect through `kubectl port-forward`.
"""

from rayvldd.clusters.cluster_file import ClusterFile
from rayvldd.clusters.kubernetes_fields import field_faults
from rayvldd.clusters.ray_rules import DASHBOARD, key_faults, open_hosts
from rayvldd.clusters.versions import Versions
from rayvldd.errors import Fault
from rayvldd.records.json_values import JsonObject, list_at, object_at, objects_at, text_at, value_at

_RAY = ("RayCluster", "RayJob")
CLUSTER_LABEL = "ray.io/cluster"
"""Label that KubeRay sets on every pod of a cluster."""


def kubernetes_faults(file: ClusterFile, driver: Versions) -> list[Fault]:
    """Return all faults of the manifests in a file."""
    faults = []
    for document in file.documents:
        if document["kind"] in _RAY:
            faults += list(field_faults(document, str(document["kind"]), _name(file, document)))
    if faults:
        return faults  # the rules need valid fields
    clusters = [document for document in file.documents if document["kind"] == "RayCluster"]
    if not clusters:
        faults.append(Fault(str(file.path), "has no RayCluster", "a manifest of kind RayCluster"))
    for cluster in clusters:
        faults += _cluster_faults(cluster, _name(file, cluster), driver)
        faults += _policy_faults(file, cluster)
    faults += _opening_faults(file) + _selector_faults(file, clusters)
    return faults + key_faults({}, file.text, str(file.path))


def containers_of(pod_template: JsonObject) -> list[JsonObject]:
    """Return all containers of a pod template, including init containers."""
    return [*objects_at(pod_template, "spec", "initContainers"), *objects_at(pod_template, "spec", "containers")]


def _name(file: ClusterFile, document: JsonObject) -> str:
    return f"{file.path}: {document['kind']} {text_at(document, 'metadata', 'name')}".rstrip()


def _cluster_faults(cluster: JsonObject, where: str, driver: Versions) -> list[Fault]:
    spec = object_at(cluster, "spec")
    faults = []
    mode = value_at(spec, "authOptions", "mode")
    if mode != "token":
        faults.append(Fault(f"{where}.spec.authOptions.mode", f"got {mode!r}", "token, which the operator then makes"))
    if spec.get("rayVersion") != driver.ray:
        faults.append(
            Fault(f"{where}.spec.rayVersion", f"got {spec.get('rayVersion')!r}", f"{driver.ray!r}, the driver's")
        )
    head = object_at(spec, "headGroupSpec")
    if head.get("enableIngress"):
        faults.append(Fault(f"{where}.spec.headGroupSpec.enableIngress", "opens the dashboard", "false"))
    if head.get("serviceType", "ClusterIP") != "ClusterIP":
        faults.append(
            Fault(
                f"{where}.spec.headGroupSpec.serviceType", f"got {head['serviceType']}", "ClusterIP, and port-forward"
            )
        )
    for container in containers_of(object_at(head, "template")):
        line = " ".join(map(str, [*list_at(container, "command"), *list_at(container, "args")]))
        faults += [
            Fault(f"{where}: container {container.get('name')}", f"{program} listens on {host}", "127.0.0.1")
            for program, host in open_hosts(line)
            if program != DASHBOARD  # the operator reaches it over the network; the NetworkPolicy guards it
        ]
    return faults


def _policy_faults(file: ClusterFile, cluster: JsonObject) -> list[Fault]:
    """Return a fault if any pod may connect to the cluster."""
    name = value_at(cluster, "metadata", "name")
    allowed = f"a NetworkPolicy for pods with {CLUSTER_LABEL}: {name}, with `from` in every ingress rule"
    policies = [
        object_at(document, "spec")
        for document in file.documents
        if document["kind"] == "NetworkPolicy"
        and value_at(document, "spec", "podSelector", "matchLabels", CLUSTER_LABEL) == name
        and "Ingress" in (list_at(document, "spec", "policyTypes") or ["Ingress"])
    ]
    if not policies:
        return [Fault(_name(file, cluster), "every pod may reach it", allowed)]
    rules = [rule for policy in policies for rule in objects_at(policy, "ingress")]
    open_rules = [rule for rule in rules if not list_at(rule, "from") or {} in list_at(rule, "from")]
    return [Fault(_name(file, cluster), f"its NetworkPolicy allows all access: {rule}", allowed) for rule in open_rules]


def _opening_faults(file: ClusterFile) -> list[Fault]:
    """Return the settings that allow access from outside the Kubernetes cluster."""
    faults = []
    for document in file.documents:
        if document["kind"] in ("Ingress", "Gateway", "HTTPRoute"):
            faults.append(Fault(_name(file, document), "opens the cluster to the outside", "kubectl port-forward"))
        if document["kind"] == "Service" and (text_at(document, "spec", "type") or "ClusterIP") != "ClusterIP":
            faults.append(Fault(_name(file, document), f"is of type {text_at(document, 'spec', 'type')}", "ClusterIP"))
    return faults


def _selector_faults(file: ClusterFile, clusters: list[JsonObject]) -> list[Fault]:
    names = [text_at(cluster, "metadata", "name") for cluster in clusters]
    return [
        Fault(f"{_name(file, job)}.spec.clusterSelector", f"got {selected!r}", f"{CLUSTER_LABEL}: {' or '.join(names)}")
        for job in file.documents
        if job["kind"] == "RayJob" and "rayClusterSpec" not in object_at(job, "spec")
        for selected in [value_at(job, "spec", "clusterSelector", CLUSTER_LABEL)]
        if selected not in names
    ]
