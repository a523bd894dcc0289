"""The manifests for KubeRay against the published types of Kubernetes, our rules, and a RayJob made for a study."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import kubernetes.client as published
import pytest
import yaml
from click.testing import CliRunner
from helpers.cluster_files import CLUSTERS, Change, _set, changed, faults_of
from helpers.paths import ROOT
from helpers.studies import TINY_STUDY

from rayvldd.cli.main import main
from rayvldd.clusters.checking import check_cluster
from rayvldd.clusters.cluster_file import read_cluster_file
from rayvldd.clusters.kubernetes_fields import field_faults
from rayvldd.clusters.ray_job import render_ray_job
from rayvldd.config.loading import load_study
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError
from rayvldd.records.json_values import text_at, value_at

FILE = CLUSTERS / "kuberay.yaml"
_PLAIN = {"str": str, "bool": bool, "int": int, "float": float}


def manifests() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))}


def type_faults(value: Any, type_name: str, where: str) -> list[str]:
    """What of a value the types of Kubernetes' own client do not know, or know otherwise."""
    inner = re.fullmatch(r"(List|Dict)\[(?:str, ?)?(.+)\]", type_name)
    if inner and inner.group(1) == "List" and isinstance(value, list):
        return [fault for i, entry in enumerate(value) for fault in type_faults(entry, inner.group(2), f"{where}.{i}")]
    if inner and inner.group(1) == "Dict" and isinstance(value, dict):
        return [fault for key, entry in value.items() for fault in type_faults(entry, inner.group(2), f"{where}.{key}")]
    if type_name in _PLAIN or type_name == "object":
        # A port or quantity may be either; Kubernetes calls both "object".
        ok = isinstance(value, _PLAIN.get(type_name, object)) and (type_name == "bool") == isinstance(value, bool)
        return [] if ok or type_name == "object" else [f"{where}: {value!r} is no {type_name}"]
    kind = getattr(published, type_name)
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no {type_name}"]
    names = {wire: name for name, wire in kind.attribute_map.items()}
    return [
        fault
        for key, entry in value.items()
        for fault in (
            type_faults(entry, kind.openapi_types[names[key]], f"{where}.{key}")
            if key in names
            else [f"{where}.{key}: unknown to {type_name}"]
        )
    ]


def pod_templates() -> list[dict[str, Any]]:
    spec = manifests()["RayCluster"]["spec"]
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


# --- shipped files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "NetworkPolicy"])
def test_manifest_has_the_published_type(kind: str) -> None:
    assert type_faults(manifests()[kind], f"V1{kind}", kind) == []


@pytest.mark.parametrize("template", pod_templates(), ids=["head", "worker"])
def test_pod_has_the_published_type(template: dict[str, Any]) -> None:
    assert type_faults(template, "V1PodTemplateSpec", "pod") == []
    broken = json.loads(json.dumps(template))
    broken["spec"]["containers"][0]["imagee"] = "x"
    broken["spec"]["restartPolicy"] = 3
    found = " ".join(type_faults(broken, "V1PodTemplateSpec", "pod"))
    assert "imagee: unknown to V1Container" in found and "3 is no str" in found


def test_cluster_scales_from_nothing_and_holds_to_its_quotas() -> None:
    spec = manifests()["RayCluster"]["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    (group,) = spec["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0) and group["maxReplicas"] > 0
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_mlflow_listens_on_loopback_and_shares_the_volume() -> None:
    head = pod_templates()[0]["spec"]
    (mlflow,) = (container for container in head["containers"] if container["name"] == "mlflow")
    assert mlflow["command"][mlflow["command"].index("--host") + 1] == "127.0.0.1"
    assert mlflow["volumeMounts"] == head["containers"][0]["volumeMounts"]


# --- rejected files -----------------------------------------------------------------------------------------------

HEAD = "RayCluster>spec>headGroupSpec"
FAULTS: dict[str, tuple[Change, str]] = {
    "no token": (_set("RayCluster>spec>authOptions", None), "authOptions.mode: got None"),
    "token off": (_set("RayCluster>spec>authOptions>mode", "disabled"), "authOptions.mode: got 'disabled'"),
    "another Ray": (_set("RayCluster>spec>rayVersion", "2.9.0"), "rayVersion: got '2.9.0'"),
    "a load balancer": (_set(f"{HEAD}>serviceType", "LoadBalancer"), "serviceType: got LoadBalancer"),
    "an ingress": (_set(f"{HEAD}>enableIngress", True), "opens the dashboard"),
    "MLflow open": (
        _set(f"{HEAD}>template>spec>containers>1>command", ["mlflow", "server", "--host", "0.0.0.0"]),
        "MLflow listens on 0.0.0.0",
    ),
    "a policy for others": (
        _set("NetworkPolicy>spec>podSelector>matchLabels", {"app": "x"}),
        "every pod may reach it",
    ),
    "a policy for all": (_set("NetworkPolicy>spec>ingress>0", {}), "allows all access"),
    "a key": (
        _set(f"{HEAD}>template>spec>containers>0>env>0", {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
        "a secret key of AWS",
    ),
    "a job for nobody": (_set("RayJob>spec>clusterSelector", {"ray.io/cluster": "x"}), "clusterSelector: got 'x'"),
    "an unknown field": (_set("RayCluster>spec>workerGroupSpec", []), "unknown field 'workerGroupSpec' (did you mean"),
    "a group without a name": (_set("RayCluster>spec>workerGroupSpecs>0>groupName", None), "missing groupName"),
    "a text for a group": (_set("RayCluster>spec>workerGroupSpecs>0", "gpu"), "got 'gpu'"),
    "an unknown mode": (_set("RayJob>spec>submissionMode", "Http"), "submissionMode: got 'Http'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_manifests_are_refused(fault: str, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    found = faults_of(changed("kuberay.yaml", change, tmp_path))
    assert any(message in text for text in found), found


def test_the_dashboard_may_listen_to_the_operator(tmp_path: Path) -> None:
    command = ["sh", "-c", "ray start --head --dashboard-host=0.0.0.0"]
    check_cluster(changed("kuberay.yaml", _set(f"{HEAD}>template>spec>containers>0>command", command), tmp_path))


@pytest.mark.parametrize("kind", ["Ingress", "Service"])
def test_open_access_to_the_cluster_is_rejected(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "kuberay.yaml"
    spec = {"type": "NodePort"} if kind == "Service" else {}
    extra = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    file.write_text(f"{FILE.read_text(encoding='utf-8')}---\n{yaml.safe_dump(extra)}", encoding="utf-8")
    (fault,) = faults_of(file)
    assert f"{kind} x" in fault


# --- the job of a study -------------------------------------------------------------------------------------------


def study_inside(job: dict[str, Any], folder: Path) -> Study:
    """The study that a job's entrypoint writes before it sweeps."""
    found = re.search(r"echo (\S+) \| base64 -d > /tmp/study.yaml && ", job["spec"]["entrypoint"])
    assert found
    file = folder / "inside.yaml"
    file.write_bytes(base64.b64decode(found.group(1)))
    return load_study(file)


def test_job_carries_the_study_and_fits_the_cluster(tiny_study: Study, tmp_path: Path) -> None:
    job = render_ray_job(read_cluster_file(FILE), tiny_study)
    assert list(field_faults(job, "RayJob", "job")) == []
    assert type_faults(job["metadata"], "V1ObjectMeta", "metadata") == []
    assert job["metadata"] == {"generateName": "tiny-"}
    assert value_at(job, "spec", "clusterSelector") == {"ray.io/cluster": manifests()["RayCluster"]["metadata"]["name"]}
    end = "rayvldd sweep /tmp/study.yaml --address auto --workspace /mnt/rayvldd/workspace'"
    assert text_at(job, "spec", "entrypoint").endswith(end)
    assert study_inside(job, tmp_path) == tiny_study


@pytest.mark.parametrize("name", ["Flickr8k_CPU", "a" * 80, "x.y-z"])
def test_job_has_a_name_that_kubernetes_takes(name: str, tiny_study: Study) -> None:
    job = render_ray_job(read_cluster_file(FILE), tiny_study.model_copy(update={"name": name}))
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?-", text_at(job, "metadata", "generateName"))


def test_job_needs_a_job_to_start_from(tiny_study: Study, tmp_path: Path) -> None:
    file = changed("kuberay.yaml", lambda kinds: kinds["RayJob"].clear(), tmp_path)
    with pytest.raises(ConfigError, match="has no RayJob to render from"):
        render_ray_job(read_cluster_file(file), tiny_study)


def test_check_of_a_study_prints_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = tmp_path / "tiny.yaml"
    study.write_text(yaml.safe_dump(TINY_STUDY), encoding="utf-8")
    arguments = [str(study), "--cluster", "clusters/kuberay.yaml", "--workspace", str(tmp_path / "workspace")]
    result = CliRunner().invoke(main, ["check", *arguments, "--json"], prog_name="rayvldd")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["cluster"]["provider"] == "kubernetes" and found["study"] == "tiny"
    assert study_inside(found["ray_job"], tmp_path).name == "tiny"
