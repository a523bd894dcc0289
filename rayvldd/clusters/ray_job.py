"""Render a RayJob manifest that runs one study on a KubeRay cluster."""

import base64
import re
import shlex

from rayvldd.clusters.cluster_file import ClusterFile
from rayvldd.config.loading import dump_study
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault
from rayvldd.records.json_values import JsonObject, object_at, text_at

_MOST_NAME = 47
"""Maximum length of a RayJob's name: KubeRay extends it for pod names, which are limited to 63 characters."""


def render_ray_job(file: ClusterFile, study: Study) -> JsonObject:
    """Render the manifest of a job that sweeps a study, based on the RayJob of a cluster file.

    The manifest contains the resolved study, so no file has to be copied into a pod. The job is named after the study;
    running `kubectl create` again continues the study.

    Args:
        file: Manifests with a RayJob, whose entrypoint names a study file.
        study: Study to sweep.

    Raises:
        ConfigError: when the file has no RayJob.
    """
    jobs = [document for document in file.documents if document["kind"] == "RayJob"]
    if not jobs:
        raise ConfigError([Fault(str(file.path), "has no RayJob to render from", "a manifest of kind RayJob")])
    text = base64.b64encode(dump_study(study).encode()).decode()
    sweep = re.sub(r"\S+\.yaml", "/tmp/study.yaml", text_at(jobs[0], "spec", "entrypoint"), count=1)
    entrypoint = f"bash -c {shlex.quote(f'echo {text} | base64 -d > /tmp/study.yaml && {sweep}')}"
    # A finished job keeps its name until it is deleted, so Kubernetes generates a new suffix every time.
    metadata = {name: value for name, value in object_at(jobs[0], "metadata").items() if name != "name"}
    return {
        **jobs[0],
        "spec": {**object_at(jobs[0], "spec"), "entrypoint": entrypoint},
        "metadata": {**metadata, "generateName": f"{_dns_name(study.name)}-"},
    }


def _dns_name(name: str) -> str:
    """Convert the name of a study to the characters that Kubernetes allows."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MOST_NAME].strip("-") or "study"
