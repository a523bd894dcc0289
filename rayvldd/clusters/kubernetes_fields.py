"""Validate the fields of RayCluster and RayJob manifests; Kubernetes itself drops or rejects unknown fields.

Names and required fields follow the types of KubeRay 1.7, ray.io/v1 (docs.ray.io, "KubeRay CRD API reference"). Pods
and other built-in resources of Kubernetes are validated by `kubectl apply --dry-run=server`, not here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rayvldd.errors import Fault, did_you_mean
from rayvldd.records.json_values import JsonValue


@dataclass(frozen=True)
class _Type:
    """Fields of one type."""

    fields: tuple[str, ...]
    required: tuple[str, ...] = ()
    inner: dict[str, str] = field(default_factory=dict)
    """Types of the fields that are validated recursively; lists are validated per entry."""
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Allowed values of fields with a fixed set of values."""


_OBJECT = ("apiVersion", "kind", "metadata", "spec", "status")
_GROUP = ("labels", "rayStartParams", "resources", "template")

TYPES = {
    "RayCluster": _Type(_OBJECT, ("metadata", "spec"), {"spec": "RayClusterSpec"}, {"apiVersion": ("ray.io/v1",)}),
    "RayJob": _Type(_OBJECT, ("metadata", "spec"), {"spec": "RayJobSpec"}, {"apiVersion": ("ray.io/v1",)}),
    "RayClusterSpec": _Type(
        (
            *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions"),
            *("headGroupSpec", "headServiceAnnotations", "historyServerOptions", "managedBy", "networkPolicy"),
            *("rayVersion", "suspend", "tlsOptions", "upgradeStrategy", "workerGroupSpecs"),
        ),
        ("headGroupSpec",),
        {
            "authOptions": "AuthOptions",
            "autoscalerOptions": "AutoscalerOptions",
            "headGroupSpec": "HeadGroupSpec",
            "workerGroupSpecs": "WorkerGroupSpec",
        },
    ),
    "AuthOptions": _Type(("enableK8sTokenAuth", "mode", "secretName"), values={"mode": ("disabled", "token")}),
    "AutoscalerOptions": _Type(
        (
            *("args", "command", "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources"),
            *("securityContext", "upscalingMode", "version", "volumeMounts"),
        ),
        values={"upscalingMode": ("Default", "Aggressive", "Conservative"), "version": ("v1", "v2")},
    ),
    "HeadGroupSpec": _Type((*_GROUP, "enableIngress", "headService", "ingressOptions", "serviceType"), ("template",)),
    "WorkerGroupSpec": _Type(
        (
            *_GROUP,
            *("groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "priority"),
            *("replicas", "scaleStrategy", "suspend"),
        ),
        ("groupName", "maxReplicas", "minReplicas", "template"),
    ),
    "RayJobSpec": _Type(
        (
            *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
            *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
            *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
            *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
        ),
        ("entrypoint",),
        {"rayClusterSpec": "RayClusterSpec"},
        {"submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")},
    ),
}


def field_faults(value: JsonValue, kind: str, where: str) -> Iterator[Fault]:
    """Yield unknown and missing fields, and fields with a wrong type or value.

    Args:
        value: A manifest, or a part of one.
        kind: Its type, a key of ``TYPES``.
        where: Its location, for the faults.
    """
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from field_faults(entry, kind, f"{where}.{number}")
        return
    if not isinstance(value, dict):
        yield Fault(where, f"got {value!r}", f"a mapping, {kind} of KubeRay")
        return
    schema = TYPES[kind]
    for name in sorted(map(str, value.keys() - set(schema.fields))):
        yield Fault(
            where, f"unknown field {name!r}{did_you_mean(name, schema.fields)}", ", ".join(sorted(schema.fields))
        )
    for name in schema.required:
        if name not in value:
            yield Fault(where, f"missing {name}", f"{kind} of KubeRay with {', '.join(schema.required)}")
    for name, allowed in schema.values.items():
        if name in value and value[name] not in allowed:
            yield Fault(f"{where}.{name}", f"got {value[name]!r}", ", ".join(allowed))
    for name, inner in schema.inner.items():
        if name in value:
            yield from field_faults(value[name], inner, f"{where}.{name}")
