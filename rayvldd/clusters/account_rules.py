"""Rules for an account's CloudFormation template: ssh from one address only, access to one bucket prefix only."""

import re
from collections.abc import Iterator
from ipaddress import ip_network

from rayvldd.clusters.cluster_file import ClusterFile
from rayvldd.errors import Fault
from rayvldd.records.json_values import JsonObject, JsonValue, list_at, object_at, objects_at, text_at, value_at

_WIDE = ("0.0.0.0/0", "::/0", "10.0.0.0/8")
_NAMES = {
    "AWS::EC2::LaunchTemplate": "LaunchTemplateName",
    "AWS::IAM::InstanceProfile": "InstanceProfileName",
}


def account_faults(template: ClusterFile) -> list[Fault]:
    """Return the parts of a template that open more than ssh to one address, or allow more than one bucket prefix."""
    faults = []
    for name, resource in object_at(template.config, "Resources").items():
        where = f"{template.path}: Resources.{name}"
        kind, properties = text_at(resource, "Type"), object_at(resource, "Properties")
        if kind == "AWS::EC2::SecurityGroup":
            for rule in _objects(properties.get("SecurityGroupIngress", [])):
                faults += _ingress_faults(rule, template, where)
        elif kind == "AWS::EC2::SecurityGroupIngress":
            faults += _ingress_faults(properties, template, where)
        elif kind == "AWS::IAM::AccessKey":
            faults.append(Fault(where, "makes a key", "roles and instance profiles"))
        elif kind == "AWS::EC2::Volume" and (
            text_at(resource, "DeletionPolicy") != "Retain" or not properties.get("Encrypted")
        ):
            faults.append(
                Fault(where, "would be lost with the stack, or lie open", "DeletionPolicy: Retain, Encrypted")
            )
        elif kind == "AWS::EC2::LaunchTemplate":
            faults += _launch_faults(properties, where)
        if kind in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"):
            faults += _policy_faults(properties, where)
    return faults


def names_of(template: ClusterFile, kind: str) -> set[str]:
    """Return the names of a template's resources of one kind."""
    resources = object_at(template.config, "Resources").values()
    named = [object_at(resource, "Properties") for resource in resources if text_at(resource, "Type") == kind]
    return {str(properties[_NAMES[kind]]) for properties in named if _NAMES[kind] in properties}


def _launch_faults(properties: JsonObject, where: str) -> list[Fault]:
    data = object_at(properties, "LaunchTemplateData")
    faults = []
    if not data.get("SecurityGroupIds"):
        faults.append(Fault(where, "carries no security group; Ray would make an open one", "SecurityGroupIds: […]"))
    if "MetadataOptions" in data:
        # Ray copies the response of AWS into its own request, but the response has a key that AWS does not accept.
        faults.append(Fault(where, "has MetadataOptions, with which Ray 2.60 cannot launch", "them in the node_config"))
    return faults


def _ingress_faults(rule: JsonObject, template: ClusterFile, where: str) -> list[Fault]:
    if "SourceSecurityGroupId" in rule:
        return []  # between nodes
    faults = []
    if (rule.get("FromPort"), rule.get("ToPort"), rule.get("IpProtocol")) != (22, 22, "tcp"):
        ports = f"{rule.get('IpProtocol')} {rule.get('FromPort')} to {rule.get('ToPort')}"
        faults.append(Fault(where, f"opens {ports}", "port 22 alone; the rest goes through ssh"))
    for key in ("CidrIp", "CidrIpv6"):
        if key in rule and not _is_one_address(rule[key], object_at(template.config, "Parameters")):
            faults.append(
                Fault(where, f"opens ssh to {rule[key]}", "one address: A.B.C.D/32, or a parameter that must be")
            )
    return faults


def _is_one_address(cidr: JsonValue, parameters: JsonObject) -> bool:
    """Whether an address range is a single address, directly or by the pattern of its template parameter."""
    if text_at(cidr, "Ref") in parameters:
        parameter = object_at(parameters, text_at(cidr, "Ref"))
        pattern = text_at(parameter, "AllowedPattern")
        try:
            if not pattern or any(re.fullmatch(pattern, wide) for wide in _WIDE):
                return False
        except re.error:  # no pattern, so nothing is known of what it allows
            return False
        return "Default" not in parameter or _is_one_address(parameter["Default"], {})
    try:
        return ip_network(str(cidr), strict=False).num_addresses == 1
    except ValueError:
        return False


def _policy_faults(properties: JsonObject, where: str) -> list[Fault]:
    faults = [
        Fault(where, f"has all rights of {arn}", "statements of its own")
        for arn in list_at(properties, "ManagedPolicyArns")
    ]
    for document in _documents(properties):
        for statement in _objects(document.get("Statement", [])):
            if statement.get("Effect") == "Allow" and not _is_limited(statement):
                actions = ", ".join(map(str, _listed(statement.get("Action"))))
                faults.append(
                    Fault(
                        where, f"allows {actions} on {statement.get('Resource')}", "S3 below one prefix of one bucket"
                    )
                )
    return faults


def _documents(properties: JsonObject) -> Iterator[JsonObject]:
    for policy in objects_at(properties, "Policies"):
        yield object_at(policy, "PolicyDocument")
    if "PolicyDocument" in properties:
        yield object_at(properties, "PolicyDocument")


def _listed(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else [value]


def _objects(value: JsonValue) -> list[JsonObject]:
    """Return the objects of a list, or a single object; CloudFormation allows both."""
    return [entry for entry in _listed(value) if isinstance(entry, dict)]


def _is_limited(statement: JsonObject) -> bool:
    """Whether a statement does not concern S3, or is limited to objects or listings under a prefix."""
    actions = [str(action).lower() for action in _listed(statement.get("Action"))]
    if "*" in actions or "NotAction" in statement:
        return False
    if not any(action.startswith("s3:") for action in actions):
        return True
    if actions == ["s3:listbucket"]:
        prefixes = value_at(statement, "Condition", "StringLike", "s3:prefix")
        return bool(prefixes) and "*" not in _listed(prefixes)
    return all(_is_below_a_prefix(resource) for resource in _listed(statement.get("Resource")))


def _is_below_a_prefix(resource: JsonValue) -> bool:
    arn = text_at(resource, "Fn::Sub") if isinstance(resource, dict) else str(resource)
    bucket, _, key = arn.rpartition(":::")[2].partition("/")
    return bool(bucket) and "*" not in bucket and key.endswith("/*") and key != "/*"
