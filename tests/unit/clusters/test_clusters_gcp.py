"""The Google Cloud file, without Google: Ray's own provider makes its requests, and they are held to the description of
Compute Engine that Google publishes with its client.
"""

import json
import re
from pathlib import Path
from typing import Any

import httplib2
import pytest
import yaml
from googleapiclient import discovery_cache
from helpers.paths import ROOT

from rayvldd.clusters.ray_schema import with_defaults

FILE = ROOT / "clusters" / "gcp_gpu.yaml"
PROJECT, ZONE = "my-project", "us-central1-a"
COMPUTE = json.loads(
    (Path(discovery_cache.__file__).parent / "documents" / "compute.v1.json").read_text(encoding="utf-8")
)


def config() -> dict[str, Any]:
    """The file as a user edits it, with Ray's defaults."""
    return with_defaults(yaml.safe_load(FILE.read_text(encoding="utf-8").replace("YOUR-PROJECT", PROJECT)))


def faults_of(value: Any, description: dict[str, Any], where: str = "instance") -> list[str]:
    """What of a value Google's description does not know, or describes otherwise."""
    if "$ref" in description:
        return faults_of(value, COMPUTE["schemas"][description["$ref"]], where)
    kind = description["type"]
    if kind == "array" and isinstance(value, list):
        return [
            fault for i, entry in enumerate(value) for fault in faults_of(entry, description["items"], f"{where}.{i}")
        ]
    if kind == "object" and isinstance(value, dict):
        known, others = description.get("properties", {}), description.get("additionalProperties")
        return [
            fault
            for key, inner in value.items()
            for fault in (
                faults_of(inner, known.get(key, others), f"{where}.{key}")
                if key in known or others
                else [f"{where}.{key}: unknown"]
            )
        ]
    allowed = {"string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float)}.get(kind, ())
    if description.get("format") in ("int64", "uint64"):
        allowed = (str, int)  # JSON has no such integers, so both are taken
    if not isinstance(value, allowed):
        return [f"{where}: {value!r} is no {kind}"]
    if "enum" in description and value not in description["enum"]:
        return [f"{where}: {value!r} is none of {description['enum']}"]
    return []


def launched(node_type: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """Let Ray's provider launch one node; return address and body of the request that it sends to Google."""
    from google.auth.credentials import AnonymousCredentials
    from ray.autoscaler._private.gcp import config as gcp
    from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

    sent: list[tuple[str, dict[str, Any]]] = []

    def answer(self: Any, uri: str, method: str = "GET", body: Any = None, **_: Any) -> tuple[Any, bytes]:
        sent.append((uri, json.loads(body) if body else {}))
        done = {"name": "operation", "status": "DONE"}
        return httplib2.Response({"status": "200"}), json.dumps(done).encode()

    monkeypatch.setattr(httplib2.Http, "request", answer)
    monkeypatch.setattr("google.auth.default", lambda *_, **__: (AnonymousCredentials(), PROJECT))
    prepared = config()
    provider = GCPNodeProvider(prepared["provider"], prepared["cluster_name"])
    assert gcp.get_node_type(prepared["available_node_types"][node_type]["node_config"]) == gcp.GCPNodeType.COMPUTE
    node = prepared["available_node_types"][node_type]["node_config"]
    tags = {"ray-node-name": f"ray-{node_type}", "ray-node-type": node_type, "ray-user-node-type": node_type}
    provider.create_node(node, {**tags, "ray-launch-config": "x"}, 1)
    ((uri, body),) = [(uri, body) for uri, body in sent if body]
    return uri, body


@pytest.mark.parametrize("node_type", ["head", "worker"])
def test_launch_request_is_one_that_compute_engine_describes(node_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, body = launched(node_type, monkeypatch)
    assert f"/projects/{PROJECT}/zones/{ZONE}/instances?" in uri
    assert faults_of(body, COMPUTE["schemas"]["Instance"]) == []
    machine = "e2-standard-2" if node_type == "head" else "g2-standard-8"
    assert body["machineType"] == f"zones/{ZONE}/machineTypes/{machine}"
    (interface,) = body["networkInterfaces"]
    assert interface["subnetwork"].endswith("/subnetworks/rayvldd")
    assert body["tags"]["items"] == ["rayvldd"], "the firewall knows nodes by this tag"
    assert body["labels"]["ray-cluster-name"] == "rayvldd-gpu"
    assert "metadata" not in body, "no start script, and nothing in it"


def test_description_rejects_unknown_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    _, body = launched("worker", monkeypatch)
    body["scheduling"]["provisioningModel"] = "CHEAP"
    body["machinetype"] = "x"
    body["disks"][0]["initializeParams"]["diskSizeGb"] = [150]
    faults = " ".join(faults_of(body, COMPUTE["schemas"]["Instance"]))
    assert "'CHEAP' is none of" in faults and "machinetype: unknown" in faults and "[150] is no string" in faults


def test_head_keeps_the_disk_and_may_not_touch_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    _, body = launched("head", monkeypatch)
    boot, kept = body["disks"]
    assert (boot["autoDelete"], kept["autoDelete"], kept["source"]) == (True, False, f"zones/{ZONE}/disks/rayvldd")
    (account,) = body["serviceAccounts"]
    assert account["email"] == f"rayvldd-head@{PROJECT}.iam.gserviceaccount.com"
    assert account["scopes"] == ["https://www.googleapis.com/auth/compute"]
    assert account["scopes"][0] in COMPUTE["auth"]["oauth2"]["scopes"]


def test_workers_are_spot_and_have_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    _, body = launched("worker", monkeypatch)
    assert body["scheduling"]["provisioningModel"] == "SPOT"
    assert "serviceAccounts" not in body


def test_script_creates_the_resources_of_the_file() -> None:
    script = (FILE.parent / "gcp_project.sh").read_text(encoding="utf-8")
    for made in ("subnets create rayvldd", "service-accounts create rayvldd-head", "disks create rayvldd"):
        assert made in script
    assert len(re.findall(r"firewall-rules create", script)) == 2
