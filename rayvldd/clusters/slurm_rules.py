"""Rules for Slurm batch scripts: a Ray for each job, with a token, and a sweep that continues in the next job."""

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayvldd.clusters.cluster_file import ClusterFile
from rayvldd.errors import Fault

_DIRECTIVE = re.compile(r"^#SBATCH\s+--([a-z-]+)(?:[= ](\S+))?", re.MULTILINE)
_RUN = "ray symmetric-run"
_NOT_TAKEN = ("--head", "--port", "--node-ip-address", "--block")
"""Options of ``ray start`` that ``ray symmetric-run`` sets itself."""
_KEYS = re.compile(r"AWS_SECRET_ACCESS_KEY=|AWS_ACCESS_KEY_ID=|RAY_AUTH_TOKEN=[0-9A-Za-z]{16,}")


def directives_of(text: str) -> dict[str, str]:
    """The ``#SBATCH`` options of a script, by long name; a flag has an empty value."""
    return {name: value or "" for name, value in _DIRECTIVE.findall(text)}


def slurm_faults(file: ClusterFile) -> list[Fault]:
    """Return all faults of a batch script."""
    name = str(file.path)
    return [
        *_syntax_faults(file.path),
        *_directive_faults(directives_of(file.text), name),
        *_ray_faults(_words_of_run(file.text), name),
        *_script_faults(file.text, name),
    ]


def _syntax_faults(path: Path) -> list[Fault]:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    return [Fault(str(path), f"is no script of bash: {done.stderr.strip()}")] if done.returncode else []


def _directive_faults(directives: Mapping[str, str], name: str) -> list[Fault]:
    """Return faults of the options of the job."""
    faults = []
    if directives.get("ntasks-per-node") != "1":
        got = directives.get("ntasks-per-node") or "nothing"
        faults.append(Fault(f"{name}: --ntasks-per-node", f"got {got}", "1: one Ray on each node"))
    if "exclusive" not in directives:
        problem = "is missing: the end of one job would end the Ray of another on the same node"
        faults.append(Fault(f"{name}: --exclusive", problem, "#SBATCH --exclusive"))
    if "requeue" not in directives:
        faults.append(Fault(f"{name}: --requeue", "is missing: a preempted job is lost", "#SBATCH --requeue"))
    if not re.fullmatch(r"B:TERM@\d+", directives.get("signal", "")):
        got = directives.get("signal") or "nothing"
        faults.append(Fault(f"{name}: --signal", f"got {got}", "B:TERM@SECONDS, for the script alone"))
    return faults


def _words_of_run(text: str) -> list[str]:
    """The words after ``ray symmetric-run``, up to the end of its line; empty if the script has none."""
    joined = text.replace("\\\n", " ")
    line = next((line for line in joined.splitlines() if _RUN in line and not line.lstrip().startswith("#")), "")
    return shlex.split(line.partition(_RUN)[2]) if line else []


def _ray_faults(words: Sequence[str], name: str) -> list[Fault]:
    """Return faults of the command that starts Ray."""
    where = f"{name}: {_RUN}"
    if not words or "--" not in words:
        return [Fault(where, "is missing, or has no `--` before the sweep", f"{_RUN} --address HOST:PORT -- COMMAND")]
    options, sweep = words[: words.index("--")], " ".join(words[words.index("--") + 1 :])
    faults = [
        Fault(f"{where} {option}", "is set by symmetric-run itself", "leave it out")
        for option in _NOT_TAKEN
        if any(word.split("=")[0] == option for word in options)
    ]
    for option in ("--address", "--min-nodes"):
        if not any(word.split("=")[0] == option for word in options):
            faults.append(Fault(f"{where} {option}", "is missing", f"{_RUN} --address HOST:PORT --min-nodes NODES …"))
    host = re.search(r"--dashboard-host[= ](\S+)", " ".join(options))
    if host and host[1] not in ("127.0.0.1", "localhost"):
        faults.append(Fault(f"{where} --dashboard-host", f"got {host[1]}", "127.0.0.1, reached through ssh"))
    if "rayvldd sweep" in sweep:
        for option in ("--address auto", "--workspace"):
            if option not in sweep:
                faults.append(Fault(f"{name}: rayvldd sweep", f"has no {option}", f"{option}, on a shared folder"))
    return faults


def _script_faults(text: str, name: str) -> list[Fault]:
    """Return faults of the rest of the script."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    faults = []
    if "RAY_AUTH_MODE=token" not in code:
        problem = "is missing: every user of the nodes could run code in this Ray"
        faults.append(Fault(f"{name}: RAY_AUTH_MODE", problem, "export RAY_AUTH_MODE=token"))
    if "scontrol requeue" not in code or not re.search(r"^\s*trap (?!'')\S.*\bTERM\b", code, re.MULTILINE):
        faults.append(Fault(f"{name}: trap", "SIGTERM queues the job not again", "trap …, with scontrol requeue"))
    if _KEYS.search(code):
        faults.append(Fault(name, "holds keys or a token", "no keys: set them in the environment of sbatch"))
    return faults
