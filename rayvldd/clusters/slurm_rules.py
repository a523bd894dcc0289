"""Rules for Slurm batch scripts: a Ray for each job, with a token, and a sweep that continues in the next job."""

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayvldd.clusters.cluster_file import ClusterFile
from rayvldd.clusters.ray_rules import held_keys, open_hosts
from rayvldd.errors import Fault

_SHORT = {"N": "nodes", "c": "cpus-per-task", "p": "partition", "t": "time", "J": "job-name"}
"""Long names of the short options that rules or descriptions read."""
_NODES = re.compile(r"(\d+)(?:-(\d+))?")
_RUN = "ray symmetric-run"
_NOT_TAKEN = ("--head", "--port", "--node-ip-address", "--block")
"""Options of ``ray start`` that ``ray symmetric-run`` sets itself."""


def directives_of(text: str) -> dict[str, str]:
    """The ``#SBATCH`` options of a script, by long name; a flag has an empty value.

    Slurm ignores those after the first command.

    Raises:
        ValueError: when the quotes of a line are not closed.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        words = shlex.split(line.removeprefix("#SBATCH"), comments=True) if re.match(r"#SBATCH\s", line) else []
        name = ""
        for word in words:
            if option := re.fullmatch(r"--([a-z-]+)(?:=(.*))?|-([A-Za-z])(.*)", word, re.DOTALL):
                name = option[1] or _SHORT.get(option[3], option[3])
                found[name] = option[2] or option[4] or ""
            elif name:
                found[name] = word
    return found


def nodes_of(directives: Mapping[str, str]) -> tuple[int, int] | None:
    """The least and the greatest number of nodes of a job; None if it is no number or range."""
    match = _NODES.fullmatch(directives.get("nodes", "1"))
    if match is None:
        return None
    least, most = int(match[1]), int(match[2] or match[1])
    return (least, most) if 1 <= least <= most else None


def slurm_faults(file: ClusterFile) -> list[Fault]:
    """Return all faults of a batch script."""
    name = str(file.path)
    faults = _syntax_faults(file.path)
    try:
        faults += _directive_faults(directives_of(file.text), name)
    except ValueError as error:
        faults.append(Fault(f"{name}: #SBATCH", f"cannot be read: {error}", "quotes that are closed on their line"))
    try:
        faults += _ray_faults(_words_of_run(file.text), name)
    except ValueError as error:
        faults.append(Fault(f"{name}: {_RUN}", f"cannot be read: {error}", "a command with closed quotes"))
    return faults + _script_faults(file.text, name)


def _syntax_faults(path: Path) -> list[Fault]:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    return [Fault(str(path), f"is no script of bash: {done.stderr.strip()}")] if done.returncode else []


def _directive_faults(directives: Mapping[str, str], name: str) -> list[Fault]:
    """Return faults of the options of the job."""
    faults = []
    if nodes_of(directives) is None:
        got = repr(directives["nodes"])
        faults.append(Fault(f"{name}: --nodes", f"got {got}", "a number of nodes, e.g. 2, or a range, e.g. 2-4"))
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
    """The words after ``ray symmetric-run``, up to the end of its line; empty if the script has none.

    Raises:
        ValueError: when its quotes are not closed.
    """
    lines = text.replace("\\\n", " ").splitlines()
    found = (number for number, line in enumerate(lines) if _RUN in line and not line.lstrip().startswith("#"))
    first = next(found, None)
    if first is None:
        return []
    command = lines[first].partition(_RUN)[2]
    for line in lines[first + 1 :]:  # a quoted text may go on over several lines
        try:
            return shlex.split(command)
        except ValueError:
            command += f"\n{line}"
    return shlex.split(command)


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
    if "rayvldd sweep" in sweep:
        for option in ("--address auto", "--workspace"):
            if option not in sweep:
                faults.append(Fault(f"{name}: rayvldd sweep", f"has no {option}", f"{option}, on a shared folder"))
    return faults


def _script_faults(text: str, name: str) -> list[Fault]:
    """Return faults of the rest of the script."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    faults = [
        Fault(name, f"{program} listens on {host}", "127.0.0.1, reached through ssh")
        for line in code.replace("\\\n", " ").splitlines()
        for program, host in open_hosts(line)
    ]
    if "RAY_AUTH_MODE=token" not in code:
        problem = "is missing: every user of the nodes could run code in this Ray"
        faults.append(Fault(f"{name}: RAY_AUTH_MODE", problem, "export RAY_AUTH_MODE=token"))
    if "scontrol requeue" not in code or not re.search(r"^\s*trap (?!'')\S.*\bTERM\b", code, re.MULTILINE):
        faults.append(Fault(f"{name}: trap", "SIGTERM queues the job not again", "trap …, with scontrol requeue"))
    return faults + [
        Fault(f"{name} line {number}", f"holds {key}", "no keys: set them in the environment of sbatch")
        for number, key in held_keys(text)
    ]
