"""The AWS files against moto's CloudFormation, EC2 and IAM.

The account's template is deployed, and Ray's own provider does the rest. What it sends to EC2 is looked at as it goes
out, and what comes of it in EC2.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from helpers.paths import ROOT
from moto.server import ThreadedMotoServer

from rayvldd.clusters.kept_volume import attach_volume
from rayvldd.clusters.ray_schema import with_defaults
from rayvldd.errors import RayvlddError

ACCOUNT = ROOT / "clusters" / "aws_account.yaml"
FILES = sorted((ROOT / "clusters").glob("aws_*pu.yaml"))
REGION, ZONE, ADDRESS = "us-east-1", "us-east-1a", "203.0.113.7/32"
PARAMETERS = {"Bucket": "my-bucket", "Zone": ZONE, "Address": ADDRESS}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Moto's server in the place of AWS, a home folder without keys, and Ray's memory of clients empty."""
    from ray.autoscaler._private.aws import config, utils

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for cache in (utils.resource_cache, utils.client_cache, config._get_subnets_or_die):
            cache.cache_clear()
        yield url
        for cache in (utils.resource_cache, utils.client_cache, config._get_subnets_or_die):
            cache.cache_clear()
    server.stop()


@pytest.fixture(scope="module")
def account(aws: str) -> dict[str, str]:
    """The deployed template: its physical ids by logical name, of those that have one."""
    cloud = boto3.client("cloudformation")
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in PARAMETERS.items()]
    cloud.create_stack(
        StackName="rayvldd",
        TemplateBody=ACCOUNT.read_text(encoding="utf-8"),
        Parameters=parameters,
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    resources = cloud.describe_stack_resources(StackName="rayvldd")["StackResources"]
    ids = {entry["LogicalResourceId"]: entry.get("PhysicalResourceId", "") for entry in resources}
    tags = yaml.safe_load(ACCOUNT.read_text(encoding="utf-8"))["Resources"]["Kept"]["Properties"]["Tags"]
    boto3.client("ec2").create_tags(Resources=[ids["Kept"]], Tags=tags)  # moto's CloudFormation leaves these out
    return ids


def bootstrapped(file: Path, region: str = REGION, left_out: str = "") -> dict[str, Any]:
    """A cluster file after Ray's defaults and its AWS bootstrap, as `ray up` does it; a key of each node left out."""
    from ray.autoscaler._private.aws.config import bootstrap_aws

    config = yaml.safe_load(file.read_text(encoding="utf-8").replace(REGION, region))
    for node_type in config["available_node_types"].values():
        node_type["node_config"].pop(left_out, None)
    return dict(bootstrap_aws(with_defaults(config)))


def launched(config: dict[str, Any], node_type: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Launch one node through Ray's provider; return the request as it went out, and the instance in EC2."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    bodies: list[str | bytes] = []
    events = provider.ec2_fail_fast.meta.client.meta.events
    events.register("before-send.ec2.RunInstances", lambda request, **_: bodies.append(request.body), unique_id="test")
    kind = "head" if node_type == config["head_node_type"] else "worker"
    tags = {"ray-node-type": kind, "ray-user-node-type": node_type, "ray-node-name": kind, "ray-launch-config": "x"}
    node = config["available_node_types"][node_type]["node_config"]
    try:
        (instance,) = provider.create_node({**config["head_node"], **node} if kind == "head" else node, tags, 1)
    finally:
        events.unregister("before-send.ec2.RunInstances", unique_id="test")
    (body,) = bodies
    request = parse_qs(body.decode() if isinstance(body, bytes) else body)
    (reservation,) = boto3.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"]
    return {key: value for key, (value,) in request.items()}, reservation["Instances"][0]


def test_files_are_found() -> None:
    assert [file.name for file in FILES] == ["aws_cpu.yaml", "aws_gpu.yaml"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
@pytest.mark.parametrize("node_type", ["head", "worker"])
def test_node_is_configured_as_in_the_file(file: Path, node_type: str, account: dict[str, str]) -> None:
    written = yaml.safe_load(file.read_text(encoding="utf-8"))["available_node_types"][node_type]["node_config"]
    request, instance = launched(bootstrapped(file), node_type)

    assert request["InstanceType"] == instance["InstanceType"] == written["InstanceType"]
    assert request["ImageId"] == written["ImageId"]
    assert request["IamInstanceProfile.Name"] == f"rayvldd-{node_type}"
    assert request["MetadataOptions.HttpTokens"] == "required"
    assert request["SecurityGroupId.1"] == account["Nodes"]
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == [account["Nodes"]]
    assert instance["Placement"]["AvailabilityZone"] == ZONE
    assert instance["KeyName"] == "ray-autoscaler_us-east-1"

    is_spot = node_type == "worker"
    assert request.get("InstanceMarketOptions.MarketType") == ("spot" if is_spot else None)
    (disk,) = written["BlockDeviceMappings"]
    prefix = "BlockDeviceMapping.1"
    assert request[f"{prefix}.DeviceName"] == disk["DeviceName"]
    assert request[f"{prefix}.Ebs.VolumeSize"] == str(disk["Ebs"]["VolumeSize"])
    assert {request[f"{prefix}.Ebs.{key}"] for key in ("Encrypted", "DeleteOnTermination")} == {"true"}
    (volume,) = (mapping["Ebs"]["VolumeId"] for mapping in instance["BlockDeviceMappings"])
    (made,) = boto3.client("ec2").describe_volumes(VolumeIds=[volume])["Volumes"]
    assert (made["Size"], made["Encrypted"]) == (disk["Ebs"]["VolumeSize"], True)

    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags["Project"] == "rayvldd", "without it the head may not end its workers"
    assert tags["ray-node-type"] == node_type and tags["ray-cluster-name"].startswith("rayvldd-")
    assert not [key for key in request if "UserData" in key]
    assert "secret" not in str(request) and "PRIVATE" not in str(request)


def test_security_group_lets_one_address_in_by_ssh_and_nodes_talk(account: dict[str, str]) -> None:
    """Also after two bootstraps: Ray adds its own rule, ssh from anywhere, to groups that it takes charge of."""
    for file in FILES:
        bootstrapped(file)
    (group,) = boto3.client("ec2").describe_security_groups(GroupIds=[account["Nodes"]])["SecurityGroups"]
    rules = group["IpPermissions"]
    from_outside = [(rule["FromPort"], rule["ToPort"], entry["CidrIp"]) for rule in rules for entry in rule["IpRanges"]]
    assert from_outside == [(22, 22, ADDRESS)]
    among = [entry["GroupId"] for rule in rules for entry in rule["UserIdGroupPairs"]]
    assert among == [account["Nodes"]]
    assert not any(rule.get("Ipv6Ranges") or rule.get("PrefixListIds") for rule in rules)


def test_nodes_reach_one_prefix_of_one_bucket(account: dict[str, str]) -> None:
    iam = boto3.client("iam")
    policy = account["BucketPrefix"]
    version = iam.get_policy(PolicyArn=policy)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=policy, VersionId=version)["PolicyVersion"]["Document"]
    objects, listing = document["Statement"]
    assert objects["Resource"] == "arn:aws:s3:::my-bucket/rayvldd/*"
    assert listing["Action"] == "s3:ListBucket"
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["rayvldd", "rayvldd/*"]}}
    for role in ("rayvldd-head", "rayvldd-worker"):
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        assert [entry["PolicyName"] for entry in attached] == ["rayvldd-bucket-prefix"]
    assert iam.list_role_policies(RoleName="rayvldd-worker")["PolicyNames"] == []
    rights = iam.get_role_policy(RoleName="rayvldd-head", PolicyName="workers-and-volume")["PolicyDocument"]
    assert "s3:" not in str(rights)


def test_without_the_stack_nothing_is_made(aws: str) -> None:
    """Another region without the template: Ray would create an open security group if it got that far."""
    elsewhere = boto3.client("ec2", "us-west-2")
    with pytest.raises(ClientError, match="InvalidLaunchTemplateName"):
        bootstrapped(FILES[0], "us-west-2")
    groups = elsewhere.describe_security_groups()["SecurityGroups"]
    assert [group["GroupName"] for group in groups] == ["default"]
    assert elsewhere.describe_key_pairs()["KeyPairs"] == []


def test_left_alone_ray_opens_ssh_to_everybody(aws: str) -> None:
    """The reason for the template; if this fails, Ray has fixed it, and the rule in aws_rules.py can be removed."""
    bootstrapped(FILES[0], "eu-west-1", left_out="LaunchTemplate")
    groups = boto3.client("ec2", "eu-west-1").describe_security_groups()["SecurityGroups"]
    (made,) = (group for group in groups if group["GroupName"] != "default")
    assert [entry["CidrIp"] for rule in made["IpPermissions"] for entry in rule["IpRanges"]] == ["0.0.0.0/0"]


def test_volume_is_kept_with_the_stack_gone_and_moves_from_head_to_head(account: dict[str, str]) -> None:
    ec2 = boto3.client("ec2")
    config = bootstrapped(FILES[0])
    first, second = (launched(config, "head")[1]["InstanceId"] for _ in range(2))

    assert attach_volume(ec2, "rayvldd", first, wait_s=5.0) == account["Kept"]
    assert attach_volume(ec2, "rayvldd", first, wait_s=5.0) == account["Kept"]  # `ray up` again, on the same head
    with pytest.raises(RayvlddError, match=f"still in-use by {first}"):
        attach_volume(ec2, "rayvldd", second, wait_s=0.1)
    ec2.detach_volume(VolumeId=account["Kept"], InstanceId=first, Device="/dev/sdf")
    assert attach_volume(ec2, "rayvldd", second, wait_s=5.0) == account["Kept"]
    with pytest.raises(RayvlddError, match="found 0 of this name"):
        attach_volume(ec2, "another", second)

    template = yaml.safe_load(ACCOUNT.read_text(encoding="utf-8"))
    assert template["Resources"]["Kept"]["DeletionPolicy"] == "Retain"


@pytest.mark.parametrize("address", ["0.0.0.0/0", "203.0.113.0/24", "203.0.113.7"])
def test_template_takes_a_single_address_only(address: str) -> None:
    pattern = yaml.safe_load(ACCOUNT.read_text(encoding="utf-8"))["Parameters"]["Address"]["AllowedPattern"]
    assert not re.fullmatch(pattern, address)
    assert re.fullmatch(pattern, ADDRESS)


def test_template_is_one_that_cloudformation_takes() -> None:
    """By cfn-lint, which knows the published schema of every resource."""
    from cfnlint import api

    assert [str(match) for match in api.lint_file(ACCOUNT)] == []
