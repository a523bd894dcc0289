"""Security rules for `ray up` files on AWS, given the defaults of Ray 2.60.

By default, ray/autoscaler/_private/aws/config.py creates a security group with port 22 open to 0.0.0.0/0 (regardless of
`provider.security_group`), and an instance profile with full access to EC2 and S3. The files therefore use both from a
CloudFormation template. Its launch template contains the security group. Ray looks it up before it creates anything, so
`ray up` without the stack fails instead of opening a port.
"""

from pathlib import Path

from rayvldd.clusters.account_rules import account_faults, names_of
from rayvldd.clusters.cluster_file import read_cluster_file
from rayvldd.errors import Fault
from rayvldd.records.json_values import JsonObject, object_at, text_at
from rayvldd.user_paths import is_file, user_path

ACCOUNT = "account"
"""Key in `metadata` for the file that prepares the account, relative to the cluster file."""


def aws_faults(config: JsonObject, path: Path) -> list[Fault]:
    """Return settings that open ports or grant too many rights, in the file and in its account template."""
    faults = []
    if "security_group" in object_at(config, "provider"):
        faults.append(
            Fault(
                f"{path}: provider.security_group",
                "Ray opens ssh of the groups that it makes to 0.0.0.0/0, whatever is added here",
                "a LaunchTemplate in every node_config, which carries the group",
            )
        )
    for name, node_type in object_at(config, "available_node_types").items():
        faults += _node_faults(object_at(node_type, "node_config"), f"{path}: available_node_types.{name}.node_config")
    return faults + _faults_of_account(config, path)


def _node_faults(node: JsonObject, where: str) -> list[Fault]:
    faults = []
    if not any(key in node for key in ("LaunchTemplate", "SecurityGroupIds", "NetworkInterfaces")):
        faults.append(
            Fault(
                where,
                "names no security group; the one that Ray would make opens ssh to 0.0.0.0/0",
                "LaunchTemplate: {LaunchTemplateName: …}, or SecurityGroupIds",
            )
        )
    if not any(text_at(node, "IamInstanceProfile", key) for key in ("Name", "Arn")):
        faults.append(
            Fault(
                f"{where}.IamInstanceProfile",
                "missing; the profile that Ray makes for a head has full rights to S3, and a worker has none",
                "{Name: …} of a profile that is limited to one prefix of a bucket",
            )
        )
    if text_at(node, "MetadataOptions", "HttpTokens") != "required":
        got = "missing; a request that something on the node is talked into fetches the role's keys"
        faults.append(Fault(f"{where}.MetadataOptions", got, "{HttpTokens: required}"))
    return faults


def _faults_of_account(config: JsonObject, path: Path) -> list[Fault]:
    """Return the faults of the template, and names used by the cluster file that the template does not define."""
    nodes = {name: object_at(node, "node_config") for name, node in object_at(config, "available_node_types").items()}
    if not any("LaunchTemplateName" in object_at(node, "LaunchTemplate") for node in nodes.values()):
        return []  # the security group is given by its id, so its rules are known only to AWS
    named = text_at(config, "metadata", ACCOUNT)
    if not named or not is_file(path.parent / user_path(named)):
        got = f"there is no {path.parent / user_path(named)}" if named else "missing"
        return [Fault(f"{path}: metadata.{ACCOUNT}", got, "the CloudFormation template that makes the launch template")]
    template = read_cluster_file(path.parent / user_path(named))
    faults = account_faults(template)
    for key, kind, name_key in (
        ("LaunchTemplate", "AWS::EC2::LaunchTemplate", "LaunchTemplateName"),
        ("IamInstanceProfile", "AWS::IAM::InstanceProfile", "Name"),
    ):
        made = names_of(template, kind)
        for node_type, node in nodes.items():
            resource = text_at(node, key, name_key)
            if resource and resource not in made:
                where = f"{path}: available_node_types.{node_type}.node_config.{key}"
                faults.append(Fault(where, f"{template.path.name} makes no {resource!r}", ", ".join(sorted(made))))
    return faults
