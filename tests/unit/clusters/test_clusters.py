"""Every file of `clusters/` satisfies Ray's schema and the rules of this package; each rule rejects its faults."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from helpers.cluster_files import CLUSTERS, Change, _set, changed, faults_of
from helpers.paths import ROOT

from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.cli.main import main
from rayvldd.clusters.checking import check_cluster
from rayvldd.clusters.cluster_file import read_cluster_file
from rayvldd.clusters.ray_rules import TOKEN
from rayvldd.clusters.versions import Versions

FILES = sorted(CLUSTERS.rglob("*.yaml"))
RAY_FILES = [file for file in FILES if "provider" in next(yaml.safe_load_all(file.read_text(encoding="utf-8")))]


@pytest.fixture(autouse=True)
def in_a_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The files name parts of the checkout from its root; the home folder has no token yet."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)], prog_name="rayvldd")


# --- shipped files ------------------------------------------------------------------------------------------------


def test_every_kind_of_machine_has_its_file() -> None:
    names = {file.name for file in FILES}
    assert names >= {"aws_account.yaml", "aws_cpu.yaml", "aws_gpu.yaml", "gcp_gpu.yaml", "kuberay.yaml"}
    assert len(RAY_FILES) >= 3


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_shipped_file_passes(file: Path) -> None:
    result = run("--cluster", file.relative_to(ROOT), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["versions"]["ray"] == Versions.here().ray
    assert found["next_command"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_header_has_command_cost_edits_and_untested_parts(file: Path) -> None:
    read = read_cluster_file(file)
    header = read.text[: read.text.index("\n\n")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "Cost" in header and "Tested" in header
    assert len(read.edits) <= 3
    if read.kind != "cloudformation":
        assert f"clusters/{file.name}" in header
        assert "8265" in header and "5000" in header, "how to open the dashboards"
        assert read.edits, "no value is marked"


@pytest.mark.parametrize("file", RAY_FILES, ids=lambda file: file.name)
def test_workers_of_a_cloud_are_spot_and_none_are_kept(file: Path) -> None:
    report = check_cluster(file)
    head, *workers = report.groups
    assert (head.fewest, head.most, head.is_spot) == (1, 1, False)
    if report.provider != "local":
        assert workers and all(group.is_spot and group.fewest == 0 < group.most for group in workers)
        assert head.resources["CPU"] == 0, "a trial on the head would starve the driver"


@pytest.mark.parametrize("name", ["aws_gpu.yaml", "aws_cpu.yaml"])
def test_cost_in_the_header_is_the_sum_of_the_prices(name: str) -> None:
    report = check_cluster(CLUSTERS / name)
    assert report.usd_per_hour is not None and report.prices.source and report.prices.lookup
    head, worker = report.groups
    assert head.usd_per_hour and worker.usd_per_hour
    total = head.usd_per_hour + worker.most * worker.usd_per_hour
    assert report.usd_per_hour == (head.usd_per_hour, round(total, 4))
    assert f"= {total:.2f} USD" in report.file.text


# --- rejected files -----------------------------------------------------------------------------------------------


def _without(path: str, text: str) -> Change:
    """Take a text out of every command of a list."""

    def change(config: dict[str, Any]) -> None:
        config[path] = [command.replace(text, "") for command in config[path]]

    return change


NODE = "available_node_types>worker>node_config"
RAY_FAULTS: dict[str, tuple[str, Change, str]] = {
    "no token on the head": (
        "aws_gpu.yaml",
        _without("head_start_ray_commands", "RAY_AUTH_MODE=token "),
        "starts Ray without a token",
    ),
    "no token on workers": (
        "gcp_gpu.yaml",
        _without("worker_start_ray_commands", "RAY_AUTH_MODE=token "),
        "starts Ray without a token",
    ),
    "token switched off": (
        "aws_gpu.yaml",
        _set("setup_commands>0", "export RAY_AUTH_MODE=disabled"),
        "switches the token",
    ),
    "token not handed on": ("aws_gpu.yaml", _set(f"file_mounts>{TOKEN}", None), "hands no token"),
    "dashboard open": (
        "aws_gpu.yaml",
        _set("head_start_ray_commands>0", "RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0"),
        "the dashboard listens on 0.0.0.0",
    ),
    "Ray's own start command": (
        "gcp_gpu.yaml",
        _set("head_start_ray_commands", None),
        "the dashboard listens on 0.0.0.0",
    ),
    "MLflow open": (
        "aws_cpu.yaml",
        _set("head_start_ray_commands>0", "mlflow server --host 0.0.0.0"),
        "MLflow listens",
    ),
    "keys in the file": (
        "aws_gpu.yaml",
        _set("setup_commands>0", "export AWS_SECRET_ACCESS_KEY=x"),
        "a secret key of AWS",
    ),
    "keys of the provider": (
        "aws_gpu.yaml",
        _set("provider>aws_credentials", {}),
        "provider.aws_credentials: holds keys",
    ),
    "keys copied": ("aws_gpu.yaml", _set("file_mounts>~/.aws", "~/.aws"), "copies ~/.aws to the nodes"),
    "another Ray": ("aws_gpu.yaml", _set("setup_commands>0", "pip install ray==2.9.0"), "installs Ray 2.9.0"),
    "another Python": ("aws_gpu.yaml", _set("setup_commands>0", "uv venv --python 3.9 x"), "installs Python 3.9"),
    "no pins": ("aws_gpu.yaml", _without("setup_commands", "-c ~/rayvldd/constraints.txt"), "without its pins"),
    "a file that is not there": (
        "aws_gpu.yaml",
        _set("file_mounts>~/data", "no/such/folder"),
        "there is no no/such/folder",
    ),
    "Ray's security group": ("aws_gpu.yaml", _set("provider>security_group", {"GroupName": "x"}), "0.0.0.0/0"),
    "no security group": ("aws_gpu.yaml", _set(f"{NODE}>LaunchTemplate", None), "names no security group"),
    "no profile": ("aws_gpu.yaml", _set(f"{NODE}>IamInstanceProfile", None), "full rights to S3"),
    "a profile that nobody makes": ("aws_gpu.yaml", _set(f"{NODE}>IamInstanceProfile>Name", "x"), "makes no 'x'"),
    "forged requests": ("aws_gpu.yaml", _set(f"{NODE}>MetadataOptions", None), "fetches the role's keys"),
    "no account": ("aws_gpu.yaml", _set("metadata>account", None), "metadata.account: missing"),
    "the default network": ("gcp_gpu.yaml", _set(f"{NODE}>networkInterfaces", None), "names no network"),
    "the default subnetwork": (
        "gcp_gpu.yaml",
        _set(f"{NODE}>networkInterfaces>0>subnetwork", "regions/us-central1/subnetworks/default"),
        "is the default network",
    ),
    "all buckets": (
        "gcp_gpu.yaml",
        _set("available_node_types>head>node_config>serviceAccounts", None),
        "may write every bucket",
    ),
    "a wide scope": (
        "gcp_gpu.yaml",
        _set(f"{NODE}>serviceAccounts", [{"scopes": ["https://www.googleapis.com/auth/cloud-platform"]}]),
        "has the scope",
    ),
    "an unknown key": (
        "aws_gpu.yaml",
        _set("file_mount", {}),
        "unknown key 'file_mount' (did you mean 'file_mounts'?)",
    ),
    "a text for a number": ("aws_gpu.yaml", _set("max_workers", "four"), "max_workers: got 'four'"),
    "a head that is no type": ("aws_gpu.yaml", _set("head_node_type", "hed"), "head_node_type: got 'hed'"),
    "more than allowed": ("aws_gpu.yaml", _set("available_node_types>worker>min_workers", 9), "max_workers: got 4"),
    "another cloud": ("aws_gpu.yaml", _set("provider>type", "azure"), "provider.type: got 'azure'"),
}


@pytest.mark.parametrize("fault", RAY_FAULTS)
def test_file_for_ray_up_is_refused(fault: str, tmp_path: Path) -> None:
    name, change, message = RAY_FAULTS[fault]
    found = faults_of(changed(name, change, tmp_path))
    assert any(message in text for text in found), found


ACCOUNT_FAULTS: dict[str, tuple[str, Any, str]] = {
    "ssh from anywhere": (
        "Nodes>Properties>SecurityGroupIngress>0>CidrIp",
        "0.0.0.0/0",
        "opens ssh to 0.0.0.0/0",
    ),
    "ssh from a network": (
        "Nodes>Properties>SecurityGroupIngress>0>CidrIp",
        "203.0.113.0/24",
        "opens ssh to 203.0.113.0/24",
    ),
    "the dashboard's port": ("Nodes>Properties>SecurityGroupIngress>0>ToPort", 8265, "opens tcp 22 to 8265"),
    "everything from anywhere": ("AmongNodes>Properties>SourceSecurityGroupId", None, "opens -1 None to None"),
    "a whole bucket": (
        "BucketPrefix>Properties>PolicyDocument>Statement>0>Resource",
        "arn:aws:s3:::my-bucket/*",
        "allows s3:GetObject",
    ),
    "all buckets": ("BucketPrefix>Properties>PolicyDocument>Statement>0>Resource", "*", "allows s3:GetObject"),
    "listing all": ("BucketPrefix>Properties>PolicyDocument>Statement>1>Condition", None, "allows s3:ListBucket"),
    "everything": (
        "BucketPrefix>Properties>PolicyDocument>Statement>0>Action",
        ["*"],
        "allows *",
    ),
    "a policy of AWS": (
        "HeadRole>Properties>ManagedPolicyArns",
        ["arn:aws:iam::aws:policy/AmazonS3FullAccess"],
        "all rights of arn:aws:iam::aws:policy/AmazonS3FullAccess",
    ),
    "a key": ("Key", {"Type": "AWS::IAM::AccessKey"}, "makes a key"),
    "a volume that lies open": ("Kept>Properties>Encrypted", None, "lie open"),
    "a volume that goes": ("Kept>DeletionPolicy", "Delete", "would be lost"),
    "no security group": ("Launch>Properties>LaunchTemplateData>SecurityGroupIds", [], "carries no security group"),
    "what Ray cannot copy": (
        "Launch>Properties>LaunchTemplateData>MetadataOptions",
        {"HttpTokens": "required"},
        "Ray 2.60 cannot launch",
    ),
}


@pytest.mark.parametrize("fault", ACCOUNT_FAULTS)
def test_account_is_refused_by_itself_and_through_the_cluster_file(fault: str, tmp_path: Path) -> None:
    path, value, message = ACCOUNT_FAULTS[fault]
    cluster = changed("aws_gpu.yaml", lambda config: None, tmp_path)
    account = changed("aws_account.yaml", _set(f"Resources>{path}", value), tmp_path)
    for file in (account, cluster):
        found = faults_of(file)
        assert any(message in text for text in found), found


def test_launch_template_without_its_name_is_missed(tmp_path: Path) -> None:
    cluster = changed("aws_gpu.yaml", lambda config: None, tmp_path)
    changed("aws_account.yaml", _set("Resources>Launch>Properties>LaunchTemplateName", None), tmp_path)
    assert "aws_account.yaml makes no 'rayvldd'" in " ".join(faults_of(cluster))


@pytest.mark.parametrize("pattern", [None, ".*", r"[0-9./]+", "[0-9"])
def test_address_without_a_pattern_is_refused(pattern: str | None, tmp_path: Path) -> None:
    file = changed("aws_account.yaml", _set("Parameters>Address>AllowedPattern", pattern), tmp_path)
    assert "opens ssh to" in " ".join(faults_of(file))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('--source-ranges="$address/32"', "--source-ranges=0.0.0.0/0", "opens ssh to 0.0.0.0/0"),
        ('--source-ranges="$address/32"', "", "opens ssh to 0.0.0.0/0"),
        ("--allow=tcp:22", "--allow=tcp", "opens tcp"),
        ("firewall-rules create", "networks list", "makes no firewall rule"),
    ],
)
def test_firewall_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    cluster = changed("gcp_gpu.yaml", lambda config: None, tmp_path)
    script = tmp_path / "gcp_project.sh"
    text = script.read_text(encoding="utf-8")
    assert old in text
    script.write_text(text.replace(old, new), encoding="utf-8")
    found = faults_of(cluster)
    assert any(message in text for text in found), found


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["provider"]["security_group"] = {"GroupName": "x"}
        del config["file_mounts"][TOKEN]
        config["setup_commands"] = ["pip install ray==2.9.0"]

    file = changed("aws_gpu.yaml", change, tmp_path)
    result = run("--cluster", file, "--json")
    assert result.exit_code == EXIT_USER_ERROR
    found = json.loads(result.stdout.splitlines()[-1])
    text = json.dumps(found["faults"])
    for part in ("0.0.0.0/0", "hands no token", "installs Ray 2.9.0", "without its pins"):
        assert part in text
    assert found["next_command"] == f"correct the file, then: rayvldd check --cluster {file}"


def test_pins_of_another_ray_are_refused_with_both_versions(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("ray==2.9.0\n", encoding="utf-8")
    file = changed("aws_gpu.yaml", _set("file_mounts>~/rayvldd/constraints.txt", str(pins)), tmp_path)
    (fault,) = faults_of(file)
    assert "pins Ray 2.9.0" in fault and Versions.here().ray in fault


# --- the command --------------------------------------------------------------------------------------------------


def test_placeholders_are_reported_and_then_the_token_and_the_start(tmp_path: Path) -> None:
    file = changed("aws_gpu.yaml", lambda config: None, tmp_path)
    file.write_text((CLUSTERS / "aws_gpu.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    result = run("--cluster", file)
    assert "to edit" in result.output and "YOUR-BUCKET" in result.output
    assert f"Next: edit {file}, then: rayvldd check --cluster {file}" in result.output

    file.write_text(file.read_text(encoding="utf-8").replace("YOUR-BUCKET", "my-bucket"), encoding="utf-8")
    start = f"RAY_AUTH_MODE=token ray up -y {file}"
    assert f"Next: ray get-auth-token --generate > /dev/null && {start}" in run("--cluster", file).output

    Path(TOKEN).expanduser().parent.mkdir()
    Path(TOKEN).expanduser().write_text("t", encoding="utf-8")
    assert f"Next: {start}" in run("--cluster", file).output


def test_price_that_is_not_in_the_table_is_to_be_looked_up(tmp_path: Path) -> None:
    file = changed("aws_gpu.yaml", _set(f"{NODE}>InstanceType", "g6.xlarge"), tmp_path)
    output = " ".join(run("--cluster", file).output.split())
    assert "no price of g6.xlarge" in output and "describe-spot-price-history" in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not readable as YAML"),
        ("- 1", "is no cluster file"),
        ("", "is no cluster file"),
        ("name: x", "is no cluster file"),
    ],
)
def test_other_files_are_reported_as_no_cluster_file(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    result = run("--cluster", file)
    assert result.exit_code == EXIT_USER_ERROR and message in result.output


def test_missing_file_names_the_nearest() -> None:
    result = run("--cluster", "clusters/aws_gpus.yaml")
    assert "did you mean 'clusters/aws_gpu.yaml'" in result.output


def test_nothing_to_check_is_an_error() -> None:
    result = run()
    assert result.exit_code == EXIT_USER_ERROR and "give a STUDY, or --cluster FILE" in result.output


def test_no_cluster_file_needs_a_workspace(tmp_path: Path) -> None:
    run("--cluster", "clusters/aws_gpu.yaml", "--workspace", tmp_path / "ws")
    assert not (tmp_path / "ws").exists()


# --- machines of one's own ----------------------------------------------------------------------------------------


def _own(head: str = "10.0.0.5", workers: tuple[str, ...] = ("10.0.0.6",)) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["provider"].update(head_ip=head, worker_ips=list(workers))

    return change


@pytest.mark.parametrize(
    "change, expected",
    [
        (_own(workers=("10.0.0.5", "10.0.0.6")), "provider.worker_ips.0: 10.0.0.5 is head_ip already"),
        (_own(workers=("10.0.0.6", "10.0.0.6")), "provider.worker_ips.1: 10.0.0.6 is worker_ips.0 already"),
        (_own(head="10.0.0.5:2222"), "provider.head_ip: got '10.0.0.5:2222'; allowed: an address without a port"),
        (_own(workers=("host:22",)), "provider.worker_ips.0: got 'host:22'; allowed: an address without a port"),
    ],
)
def test_addresses_of_ones_own_machines(change: Change, expected: str, tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").touch()
    (fault,) = faults_of(changed("on_prem.yaml", change, tmp_path))
    assert expected in fault


def test_another_port_of_ssh_belongs_to_the_settings_of_ssh(tmp_path: Path) -> None:
    def with_port(config: dict[str, Any]) -> None:
        config["auth"]["ssh_port"] = 2222

    (fault,) = faults_of(changed("on_prem.yaml", with_port, tmp_path))
    assert "auth: unknown key 'ssh_port'; allowed: for another port, `Port` below the host in ~/.ssh/config" in fault


def test_a_private_key_that_does_not_exist(tmp_path: Path) -> None:
    file = changed("on_prem.yaml", _own(), tmp_path)
    (fault,) = faults_of(file)
    assert "auth.ssh_private_key: there is no ~/.ssh/id_ed25519" in fault
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").touch()
    assert check_cluster(file).provider == "local"


@pytest.mark.parametrize(("failures", "works"), [(0, True), (2, True), (3, False)])
def test_a_host_on_prem_starts_ray_again_where_that_fails(tmp_path: Path, failures: int, works: bool) -> None:
    """The autoscaler starts a host once; the start itself takes three tries, and fails where all of them do."""
    commands = yaml.safe_load((CLUSTERS / "on_prem.yaml").read_text(encoding="utf-8"))["worker_start_ray_commands"]
    (start,) = (one for one in commands if "ray start" in one)
    program, calls = tmp_path / "ray", tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\necho "$1" >> {calls}\n[ "$1" = stop ] || [ $(grep -c start {calls}) -gt {failures} ]\n'
    )
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD_IP": "10.0.0.1"}
    done = subprocess.run(["bash", "-c", f"true && ({start})"], env=environment)
    assert (done.returncode == 0) is works
    assert calls.read_text().split() == (["start", "stop"] * min(failures, 2) + ["start"])
