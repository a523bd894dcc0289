"""The batch script for Slurm: its rules, Ray's own parser, and its signals with stand-ins of Slurm's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.cluster_files import CLUSTERS, faults_of
from helpers.paths import ROOT

from rayvldd.clusters.checking import check_cluster
from rayvldd.clusters.slurm_rules import _words_of_run

SCRIPT = CLUSTERS / "slurm.sbatch"

STAND_INS = {
    "scontrol": 'case "$1 $2" in "show hostnames") echo localhost; echo node2 ;;\n'
    '"show job") echo "   JobState=$(cat "$CALLS/state") Reason=None" ;; *) echo "$@" >> "$CALLS/scontrol" ;; esac',
    "srun": 'exec "$@"',
    "ray": 'echo "$@" >> "$CALLS/ray"; while [ -e "$CALLS/hold" ]; do sleep 0.05; done\n'
    'while [ "$1" != -- ]; do shift; done; shift; "$@"',
    "rayvldd": 'echo "$@" >> "$CALLS/rayvldd"; trap "echo TERM >> $CALLS/rayvldd; exit 143" TERM\n'
    'echo $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} > "$CALLS/token"\n'
    'while [ ! -e "$CALLS/finish" ]; do sleep 0.05; done; exit 4',
}
"""Commands of a job, by name. Ray starts the sweep when no file ``hold`` exists; that runs until the file ``finish``
exists, and then fails with code 4."""


def changed_script(folder: Path, old: str, new: str) -> Path:
    text = SCRIPT.read_text(encoding="utf-8")
    assert old in text
    file = folder / "job.sbatch"
    file.write_text(text.replace(old, new), encoding="utf-8")
    return file


def test_the_shipped_script_passes_and_its_nodes_are_described() -> None:
    report = check_cluster(SCRIPT)
    (group,) = report.groups
    assert (report.provider, group.fewest, group.most) == ("slurm", 2, 2)
    assert group.resources == {"CPU": "16", "GPU": "1"}
    assert [edit.placeholder for edit in report.unedited] == ["YOUR-FOLDER", "YOUR-CLONE"]
    header = report.file.text.partition("\n\n")[0]
    assert "Cost" in header and "Tested" in header and f"clusters/{SCRIPT.name}" in header


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("--ntasks-per-node=1", "--ntasks-per-node=4", "--ntasks-per-node: got 4"),
        ("#SBATCH --exclusive\n", "", "--exclusive: is missing"),
        ("#SBATCH --requeue\n", "", "--requeue: is missing"),
        ("--signal=B:TERM@300", "--signal=TERM@300", "--signal: got TERM@300"),
        ("RAY_AUTH_MODE=token ", "", "RAY_AUTH_MODE: is missing"),
        ("trap again TERM", "", "trap: SIGTERM"),
        ("scontrol requeue", "true", "trap: SIGTERM"),
        ("--dashboard-host 127.0.0.1", "--dashboard-host 0.0.0.0", "the dashboard listens on 0.0.0.0"),
        ("again() {", "mlflow server --host 0.0.0.0 &\nagain() {", "MLflow listens on 0.0.0.0"),
        ("#SBATCH --nodes=2\n", "#SBATCH --nodes=two\n", "--nodes: got 'two'; allowed: a number of nodes"),
        ("#SBATCH --nodes=2\n", "#SBATCH --nodes=4-2\n", "--nodes: got '4-2'"),
        ("#SBATCH --nodes=2\n", "#SBATCH --comment='Ray\n", "#SBATCH: cannot be read: No closing quotation"),
        ("#SBATCH --exclusive\n", "module load cuda\n#SBATCH --exclusive\n", "--exclusive: is missing"),
        ("bash -c 'echo", "bash -c \"'echo", "ray symmetric-run: cannot be read: No closing quotation"),
        ("--disable-usage-stats", "--head", "--head: is set by symmetric-run itself"),
        ("--min-nodes", "--num-gpus", "--min-nodes: is missing"),
        (" -- \\\n", " \\\n", "has no `--` before the sweep"),
        ("set -euo pipefail", "export AWS_SECRET_ACCESS_KEY=abc", "holds a secret key of AWS"),
        ("set -euo pipefail", "export aws_access_key_id=abc", "holds an access key of AWS"),
        ("set -euo pipefail", "key=AKIAABCDEFGHIJKLMNOP", "holds an access key of AWS"),
        ("set -euo pipefail", "export RAY_AUTH_TOKEN=abc", "line 28: holds a token"),
        ("set -euo pipefail", "echo '-----BEGIN RSA PRIVATE KEY-----' > key", "holds a private key"),
        ("again() {", "again( {", "is no script of bash"),
    ],
)
def test_faults_are_rejected(tmp_path: Path, old: str, new: str, problem: str) -> None:
    faults = faults_of(changed_script(tmp_path, old, new))
    assert any(problem in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("directive", "nodes"),
    [
        ("--nodes=2-4", (2, 4)),
        ("--nodes 3", (3, 3)),
        ("-N 2", (2, 2)),
        ("-N2-4", (2, 4)),
        ('--nodes="3" --mem=8G  # all', (3, 3)),
        ("--mem=8G", (1, 1)),
    ],
)
def test_the_number_of_nodes_is_read_as_by_slurm(tmp_path: Path, directive: str, nodes: tuple[int, int]) -> None:
    report = check_cluster(changed_script(tmp_path, "#SBATCH --nodes=2\n", f"#SBATCH {directive}\n"))
    (group,) = report.groups
    assert (group.fewest, group.most) == nodes


def test_a_quoted_text_may_go_on_over_lines(tmp_path: Path) -> None:
    report = check_cluster(changed_script(tmp_path, "; exec rayvldd", "\n    exec rayvldd"))
    assert report.provider == "slurm"


def test_ray_accepts_the_options_of_the_script() -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    words = _words_of_run(SCRIPT.read_text(encoding="utf-8"))
    words = ["2" if word.startswith("$") and "NODES" in word else word for word in words[: words.index("--")]]
    words = ["4" if "SLURM_CPUS" in word else word for word in words]
    of_start = curate_and_validate_ray_start_args(words)
    assert of_start[:2] == ["--num-cpus", "4"]
    context = start.make_context("start", of_start)
    assert (context.params["num_cpus"], context.params["dashboard_host"]) == (4, "127.0.0.1")


@pytest.mark.parametrize("file", [ROOT / "Dockerfile", CLUSTERS / "kuberay.Dockerfile"], ids=lambda file: file.name)
def test_what_an_image_copies_is_there_and_not_ignored(file: Path) -> None:
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("COPY ")]
    copied = {source for _, *sources, _ in lines for source in sources}
    assert copied >= {"pyproject.toml", "constraints.txt", "rayvldd", "search_spaces"}
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{source}" for source in copied} <= set(ignored)


@pytest.fixture
def job(tmp_path: Path) -> tuple[list[str], dict[str, str], Path]:
    """Command, environment and folder of calls of the script as a job on one node, with stand-ins."""
    calls, programs = tmp_path / "calls", tmp_path / "bin"
    calls.mkdir()
    programs.mkdir()
    (calls / "state").write_text("RUNNING")
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    script = changed_script(tmp_path, "/shared/YOUR-FOLDER/rayvldd", str(tmp_path / "workspace"))
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_NUM_NODES": "1", "CALLS": str(calls)}
    environment = {**os.environ, **slurm, "PATH": f"{programs}:{os.environ['PATH']}"}
    return ["bash", str(script), "study.yaml", "--set", "seed=1"], environment, calls


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline, f"{file.name} was not written"
        time.sleep(0.02)


def test_the_sweep_gets_its_options_and_the_job_its_exit_code(job: tuple[list[str], dict[str, str], Path]) -> None:
    command, environment, calls = job
    (calls / "finish").touch()
    assert subprocess.run(command, env=environment, cwd=ROOT).returncode == 4
    words = (calls / "rayvldd").read_text().split()
    assert words[:2] == ["sweep", "study.yaml"] and words[-2:] == ["--set", "seed=1"]
    assert "--address 127.0.0.1:20077 --min-nodes 1" in (calls / "ray").read_text()
    assert (calls / "token").read_text().split() == ["token", "64"]
    assert not (calls / "scontrol").exists(), "a sweep that ended is not queued again"


def test_sigterm_ends_the_sweep_alone_and_queues_the_job_again(job: tuple[list[str], dict[str, str], Path]) -> None:
    command, environment, calls = job
    with subprocess.Popen(command, env=environment, cwd=ROOT) as script:
        wait_for(calls / "token")
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 0
    assert (calls / "rayvldd").read_text().splitlines()[-1] == "TERM"
    assert (calls / "scontrol").read_text().split() == ["requeue", "77"]


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING"])
def test_a_cancelled_job_is_not_queued_again(job: tuple[list[str], dict[str, str], Path], state: str) -> None:
    """`scancel` sends SIGTERM to the script, too."""
    command, environment, calls = job
    (calls / "state").write_text(state)
    with subprocess.Popen(command, env=environment, cwd=ROOT) as script:
        wait_for(calls / "token")
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 0
    assert (calls / "rayvldd").read_text().splitlines()[-1] == "TERM"
    assert not (calls / "scontrol").exists()


def test_sigterm_before_the_sweep_ends_the_start_of_ray(job: tuple[list[str], dict[str, str], Path]) -> None:
    command, environment, calls = job
    (calls / "hold").touch()
    with subprocess.Popen(command, env=environment, cwd=ROOT) as script:
        wait_for(calls / "ray")
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 0
    assert not (calls / "rayvldd").exists()
    assert (calls / "scontrol").read_text().split() == ["requeue", "77"]


def test_a_first_node_without_an_address_is_named(job: tuple[list[str], dict[str, str], Path]) -> None:
    command, environment, calls = job
    scontrol = calls.parent / "bin" / "scontrol"
    scontrol.write_text(scontrol.read_text().replace("localhost", "no_such_node.invalid"))
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "node no_such_node.invalid has no address" in done.stderr
    assert not (calls / "ray").exists()
