"""The local commands of README and documentation run, in the order of their pages, on studies of tiny size.

A command is run once: another one with the same verb and options, on another study or set, is not repeated. On pages
about clusters and in the reference, commands in running text are run too if nothing is missing.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import click
import pytest
import yaml
from helpers.cli import run
from helpers.paths import ROOT
from helpers.studies import TINY_STUDY

from rayvldd.cli.main import main

SPACE = {"distillation.lr_image": {"type": "float", "low": 5.0, "high": 50.0, "log": True}}
SEARCH = {"space": SPACE, "num_trials": 1, "max_concurrent": 1, "num_finalists": 0}
RESOURCES = {"cpus_per_expert": 2, "cpus_per_trial": 2}
"""One process at a time on the Ray of two CPUs: most of the time is the import of torch in each."""
DOCS = ROOT / "docs"
WITH_MENTIONS = [*sorted((DOCS / "clusters").glob("*.md")), *sorted((DOCS / "reference").glob("*.md"))]
DOCUMENTS = [
    *(ROOT / "README.md", DOCS / "getting-started.md"),
    *sorted((DOCS / "guides").glob("*.md")),
    *(DOCS / "evaluations.md", *WITH_MENTIONS),
]
"""All pages with commands but results.md: its commands take minutes to hours, and are those of the guides."""

ELSEWHERE = {
    r"s3://|--address|--submit|^rayvldd (status|logs|stop) ": "needs a bucket or a cluster",
    r"^rayvldd ui": "serves until Ctrl-C; tests/integration/tracking/test_ui.py runs it",
    r"--transfer": "needs weights from the hub of timm",
    r" their_set ": "is a set of somebody else, of photographs",
    r"--push|hf://|bert-base-uncased": "needs the hub of Hugging Face",
    r"^rayvldd distill STUDY ": "is a study of the reader's own, with experts of more epochs than a tiny one",
    r"^rayvldd convert | lors_100 ": "needs a set of the released code of LoRS",
    r"^rayvldd experts import ": "needs buffers of the released code",
}
"""Commands that this machine cannot run, with the reason."""

SMALLER = {
    "--students 5": "--students 2",
    "--students 3": "--students 2",
    "--pairs 100,200,500": "--pairs 2,3,4",
    "--pairs 10,20,50": "--pairs 2,3",
    "k_means_100": "k_means_4",
    "search.num_trials=24": "search.num_trials=2",
    " --reference": "",  # published tables are for other data, which is refused
}
"""Replacements in commands, for the size of the tiny study."""

PLACEHOLDERS = {
    "PHASE_1 PHASE_2": "phase_1 phase_2",
    "STUDY": "search_spaces/quickstart.yaml",
    "--cluster FILE": "--cluster clusters/on_prem.yaml",
    "DIR": "rayvldd_workspace",
    "NAME": "quickstart",
}
"""What a reader puts in place of the capitals in running text."""


def commands_of(document: Path) -> Iterator[str]:
    """The ``rayvldd`` commands in the shell blocks of a page, in order; parts of ``&&`` chains are commands too."""
    for block in re.findall(r"^```bash\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for part in re.split(r"\n| && ", block):
            if re.match(r"(\.venv/bin/)?rayvldd ", part):
                yield part.removeprefix(".venv/bin/").strip()


def mentions_in(document: Path) -> Iterator[str]:
    """The ``rayvldd`` commands in the running text of a page that have all of their arguments."""
    if document not in WITH_MENTIONS:
        return
    for command in re.findall(r"`(rayvldd [^`|]+)`", document.read_text(encoding="utf-8")):
        for placeholder, value in PLACEHOLDERS.items():
            command = command.replace(placeholder, value)
        words = shlex.split(command)[1:]
        found = main.get_command(click.Context(main), words[0])
        try:
            if found is not None:
                found.make_context(words[0], words[1:])
        except click.MissingParameter:
            continue
        yield command


def is_local(command: str) -> bool:
    return not any(re.search(pattern, f"{command} ") for pattern in ELSEWHERE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: a clone whose search spaces are tiny studies, photographs, and further data."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("rayvldd", "clusters", "README.md", "LICENSE", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)  # cluster files copy these to the nodes
    (folder / "search_spaces").mkdir()
    for shipped in sorted((ROOT / "search_spaces").glob("*.yaml")):
        study = {**TINY_STUDY, "name": shipped.stem, "search": SEARCH, "resources": RESOURCES}
        (folder / "search_spaces" / shipped.name).write_text(yaml.safe_dump(study), encoding="utf-8")
    write_photographs(folder, 40)
    for number, photograph in enumerate(sorted((folder / "photos").iterdir())[:6]):
        of_class = folder / "pictures" / ("red_square", "blue_square")[number % 2]
        of_class.mkdir(parents=True, exist_ok=True)
        shutil.copy(photograph, of_class)
    other = {**TINY_STUDY, "name": "other", "data": {**TINY_STUDY["data"], "seed": 1}}
    (folder / "other_study.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
    return folder


def write_photographs(folder: Path, count: int) -> None:
    """Write ``photos/`` and ``captions.csv`` with two captions of each image."""
    import numpy as np
    from PIL import Image

    (folder / "photos").mkdir()
    rows, random = ["image,caption"], np.random.default_rng(0)
    for number in range(count):
        colour = random.integers(0, 255, size=3)
        Image.fromarray(np.broadcast_to(colour.astype(np.uint8), (20, 20, 3)).copy()).save(
            folder / "photos" / f"{number}.png"
        )
        rows += [f"{number}.png,a square of colour {number}", f"{number}.png,photograph number {number}"]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def shrink(study_file: Path) -> None:
    """Give a study that ``init`` has written the encoders and the size of the tiny one."""
    values = yaml.safe_load(study_file.read_text(encoding="utf-8"))
    tiny = {name: TINY_STUDY[name] for name in ("model", "experts", "distillation", "evaluation")}
    values |= {**tiny, "search": SEARCH, "resources": RESOURCES, "data": {**values["data"], "image_size": 16}}
    study_file.write_text(yaml.safe_dump(values), encoding="utf-8")


def write_into_file(study_file: Path, assignments: list[str]) -> None:
    """Write ``SECTION.KEY=VALUE`` into a study file, as a reader does who goes on with a study that was reopened."""
    values = yaml.safe_load(study_file.read_text(encoding="utf-8"))
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        section, _, name = key.partition(".")
        values[section] = {**values[section], name: yaml.safe_load(value)}
    study_file.write_text(yaml.safe_dump(values), encoding="utf-8")


def run_as_written(command: str) -> None:
    """Run a command of a page, smaller, and do what a reader does between it and the next one."""
    for written, smaller in SMALLER.items():
        command = command.replace(written, smaller)
    words = shlex.split(command)[1:]
    if words[0] == "init":
        Path(words[1]).unlink(missing_ok=True)  # the same command is on two pages
    if words[0] == "export":
        shutil.rmtree(words[2], ignore_errors=True)
    result = run(*words)
    assert result.exit_code == 0, f"{command}\n{result.output}"
    if words[0] == "init":
        shrink(Path(words[1]))
    if "--reopen" in words:
        write_into_file(Path(words[1]), [after for word, after in pairwise(words) if word == "--set"])


def form_of(command: str) -> str:
    """The verb and the options of a command; the subcommand, for ``experts``; the cluster file that is checked."""
    words = command.split()
    verb, cluster = words[1 : 3 if words[1] == "experts" else 2], re.findall(r"--cluster (\S+)", command)
    return " ".join(verb + sorted(set(re.findall(r"--[a-z-]+", command))) + cluster)


def sets_of_the_reader() -> None:
    """The sets that the pages call by a name of the reader's own."""
    best = Path("rayvldd_workspace/studies/quickstart/best")
    for name in ("best_set", "best_100", "best_200", "best_500", "phase_1", "phase_2"):
        if best.is_dir() and not Path(name).exists():
            shutil.copytree(best, name)


@pytest.fixture(scope="module")
def commands_to_run() -> dict[Path, list[str]]:
    """The local commands of each page, each form once; a sweep of the study of ``init`` in addition."""
    found: dict[Path, list[str]] = {}
    seen: set[str] = set()
    for document in DOCUMENTS:
        for command in filter(is_local, chain(commands_of(document), mentions_in(document))):
            form = form_of(command) + (" my_study" if "my_study" in command else "")
            if form not in seen:
                found.setdefault(document, []).append(command)
                seen.add(form)
    return found


@pytest.mark.timeout(900)  # a dozen commands on one Ray; each takes seconds on a machine that is not busy
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_local_commands_run(
    document: Path,
    commands_to_run: dict[Path, list[str]],
    clone: Path,
    local_ray: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(clone)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # as a reader has it: the embedded MLflow
    for variable in ("RAYVLDD_FLICKR8K", "RAYVLDD_IMAGE_WEIGHTS", "RAYVLDD_TEXT_ENCODER"):
        monkeypatch.setenv(variable, str(clone))
    commands = commands_to_run.get(document, [])
    if commands and not Path("rayvldd_workspace/studies/quickstart").exists():  # a single page is tested
        run_as_written("rayvldd sweep search_spaces/quickstart.yaml")
    sets_of_the_reader()
    for command in commands:
        run_as_written(command)


def test_most_commands_are_run() -> None:
    found = [command for document in DOCUMENTS for command in chain(commands_of(document), mentions_in(document))]
    local = list(filter(is_local, found))
    assert len(local) >= 20 and len(local) >= 0.6 * len(found)
    verbs = {"init", "check", "sweep", "evaluate", "compare", "coreset", "scaling", "experts", "export"}
    assert {command.split()[1] for command in local} >= verbs


def test_commands_of_evaluations_clusters_and_the_reference_are_found(commands_to_run: dict[Path, list[str]]) -> None:
    found = {page.relative_to(DOCS).as_posix(): commands_to_run.get(page, []) for page in DOCUMENTS[1:]}
    assert [command.split()[-1] for command in found["evaluations.md"][:1]] == ["--robustness"]
    assert len(found["evaluations.md"]) == 5
    assert "rayvldd check --cluster clusters/aws_gpu.yaml" in found["clusters/index.md"]
    assert "rayvldd schema" in found["reference/settings.md"]
    assert any("--dry-run" in command for command in found["reference/settings.md"])
