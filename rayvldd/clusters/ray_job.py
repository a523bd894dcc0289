"""A RayJob that runs one study on a cluster that KubeRay keeps."""

import base64
import copy
import re
import shlex
from typing import Any

from rayvldd.clusters.cluster_file import ClusterFile
from rayvldd.config.loading import dump_study
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault

_MOST_NAME = 47
"""Characters of a RayJob's name: KubeRay adds its own to name pods, and those end at 63."""


def render_ray_job(file: ClusterFile, study: Study) -> dict[str, Any]:
    """Make the manifest of the job that sweeps a study, after the RayJob of a cluster file.

    The study travels inside the manifest, as it was resolved here, so nothing has to be copied into a pod first. The
    job is named after the study, and `kubectl create` of it again continues the study.

    Args:
        file: Manifests with a RayJob, whose entrypoint names a study file.
        study: What to sweep.

    Raises:
        ConfigError: when the file has no RayJob to render from.
    """
    jobs = [document for document in file.documents if document["kind"] == "RayJob"]
    if not jobs:
        raise ConfigError([Fault(str(file.path), "has no RayJob to render from", "a manifest of kind RayJob")])
    job = copy.deepcopy(jobs[0])
    text = base64.b64encode(dump_study(study).encode()).decode()
    sweep = re.sub(r"\S+\.yaml", "/tmp/study.yaml", job["spec"]["entrypoint"], count=1)
    job["spec"]["entrypoint"] = f"bash -c {shlex.quote(f'echo {text} | base64 -d > /tmp/study.yaml && {sweep}')}"
    # A finished job keeps its name until it is deleted; this one gets a new ending from Kubernetes every time.
    del job["metadata"]["name"]
    job["metadata"]["generateName"] = f"{_dns_name(study.name)}-"
    return job


def _dns_name(name: str) -> str:
    """A study's name in the letters that Kubernetes takes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MOST_NAME].strip("-") or "study"
