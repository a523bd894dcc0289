"""Security rules for `ray up` files on Google Cloud, given the defaults of Ray 2.60.

By default, ray/autoscaler/_private/gcp/config.py uses the first subnet of the project (in a new project the default
network, with ssh open to 0.0.0.0/0), and runs the head node as an account with write access to all buckets of the
project.
"""

import re
import shlex
from pathlib import Path

from rayvldd.clusters.aws_rules import ACCOUNT
from rayvldd.errors import Fault
from rayvldd.records.json_values import JsonObject, list_at, object_at, objects_at, text_at
from rayvldd.user_paths import is_file, user_path

_WIDE_SCOPES = ("cloud-platform", "devstorage.full_control", "devstorage.read_write")


def gcp_faults(config: JsonObject, path: Path) -> list[Fault]:
    """Return settings that open ports or grant too many rights, in the file and in its project script."""
    faults = []
    for name, node_type in object_at(config, "available_node_types").items():
        where = f"{path}: available_node_types.{name}.node_config"
        node = object_at(node_type, "node_config")
        faults += _network_faults(node, where)
        faults += _rights_faults(node, where, is_head=name == config["head_node_type"])
    named = text_at(config, "metadata", ACCOUNT)
    if not named or not is_file(path.parent / user_path(named)):
        got = f"there is no {path.parent / user_path(named)}" if named else "missing"
        return [
            *faults,
            Fault(f"{path}: metadata.{ACCOUNT}", got, "the script that makes the network and its firewall"),
        ]
    return faults + firewall_faults(path.parent / user_path(named))


def _network_faults(node: JsonObject, where: str) -> list[Fault]:
    allowed = "networkInterfaces with a subnetwork whose firewall opens ssh to one address"
    interfaces = objects_at(node, "networkInterfaces")
    if not interfaces:
        return [Fault(where, "names no network; Ray would take the first, which opens ssh to 0.0.0.0/0", allowed)]
    return [
        Fault(f"{where}.networkInterfaces", "is the default network, which opens ssh to 0.0.0.0/0", allowed)
        for interface in interfaces
        if str(interface.get("subnetwork", interface.get("network", "default"))).endswith("/default")
        or not (interface.get("subnetwork") or interface.get("network"))
    ]


def _rights_faults(node: JsonObject, where: str, *, is_head: bool) -> list[Fault]:
    accounts = objects_at(node, "serviceAccounts")
    if is_head and not accounts:
        got = "missing; Ray would run the head as an account that may write every bucket of the project"
        return [Fault(f"{where}.serviceAccounts", got, "one account with the scope compute")]
    return [
        Fault(f"{where}.serviceAccounts", f"has the scope {scope}", "scopes without storage: compute")
        for account in accounts
        for scope in list_at(account, "scopes")
        if str(scope).endswith(_WIDE_SCOPES)
    ]


def firewall_faults(script: Path) -> list[Fault]:
    """Return firewall rules of a script that open more than ssh, or ssh to more than its address argument."""
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    rules = [line for line in text.splitlines() if "firewall-rules create" in line]
    if not rules:
        return [Fault(str(script), "makes no firewall rule", "gcloud compute firewall-rules create …")]
    faults = []
    for rule in rules:
        options = dict(re.findall(r"^--([\w-]+)=(.*)$", "\n".join(shlex.split(rule, comments=True)), re.MULTILINE))
        name = shlex.split(rule)[4]
        if "source-tags" in options:
            continue  # between nodes
        if options.get("allow") != "tcp:22":
            faults.append(Fault(f"{script}: {name}", f"opens {options.get('allow')}", "tcp:22 alone"))
        if not re.fullmatch(r"\$\{?\w+\}?/32", options.get("source-ranges", "0.0.0.0/0")):
            ranges = options.get("source-ranges", "0.0.0.0/0")
            faults.append(Fault(f"{script}: {name}", f"opens ssh to {ranges}", "the address that is given, /32"))
    return faults
