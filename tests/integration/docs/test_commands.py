"""The local commands and the Python of README and documentation run, in the order of their pages, at tiny size.

A command is run once: another one with the same verb and options, on another study or set, is not repeated. Commands in
running text are run too if nothing is missing and no block has them with further options, and calls of functions. All
pages share one workspace.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pytest
import yaml
from filelock import FileLock
from helpers.cli import last_object, run
from helpers.documents import blocks, calls_in, inline_code
from helpers.paths import ROOT
from helpers.studies import ONE_AT_A_TIME, TINY_STUDY

from rayvldd.cli.main import main
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.workspace import Workspace

SPACE = {"distillation.lr_image": {"type": "float", "low": 5.0, "high": 50.0, "log": True}}
SEARCH = {"space": SPACE, "num_trials": 1, "max_concurrent": 1, "num_finalists": 0}
DOCS = ROOT / "docs"
DOCUMENTS = [
    *(ROOT / "README.md", DOCS / "getting-started.md"),
    *sorted((DOCS / "guides").glob("*.md")),
    *(DOCS / "evaluations.md", *sorted((DOCS / "clusters").glob("*.md")), *sorted((DOCS / "reference").glob("*.md"))),
]
"""All pages with commands but results.md: its commands take minutes to hours, and are those of the guides."""

ELSEWHERE = {
    r"s3://|--address|--submit|^rayvldd (logs( --follow)?|(logs|stop) (ID|quickstart-3f9a1c)) $": (
        "needs a bucket or a cluster"
    ),
    r"^rayvldd ui": "serves until Ctrl-C; tests/integration/tracking/test_ui.py runs it",
    r"--watch": "writes until Ctrl-C; tests/unit/cli/test_compare_watch.py runs it",
    r"^rayvldd prepare ": "starts two pipelines of Ray Data; tests/integration/data/test_prepared_arrays.py runs it",
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
    "outer_steps=25": "outer_steps=2",
    "initialise_from=warm_up --out best_set": "initialise_from=warm_up --out warmed_up",  # best_set is another page's
    "rayvldd_workspace/studies/phases/trials/trial_000/artifacts/distilled_set": "phase_1",  # tests/unit/test_documents
    "rayvldd_workspace/studies/phases/trials/trial_001/artifacts/distilled_set": "phase_2",  # .py loads this study
    "search.num_trials=24": "search.num_trials=2",
    "lr_image=300": "lr_image=30",  # within the space of the tiny studies
    " --reference": "",  # published tables are for other data, which is refused
}
"""Replacements in commands, for the size of the tiny study."""

PLACEHOLDERS = {
    "PHASE_1 PHASE_2": "phase_1 phase_2",
    "init STUDY": "init my_study.yaml --csv captions.csv --images photos",
    "check --deep": "check my_study.yaml --deep",
    "flickr8k_cpu my_study.yaml": "flickr8k_cpu copied_study.yaml",
    "export STUDY": "export quickstart",
    "propose STUDY KEY=VALUE...": "propose quickstart distillation.lr_image=30",
    "pause STUDY": "pause quickstart",
    "stop STUDY": "stop quickstart",
    "logs STUDY": "logs quickstart",
    "STUDY": "search_spaces/quickstart.yaml",
    "SET...": "best_set",
    "SET FOLDER": "best_set exported",
    "--cluster FILE": "--cluster clusters/on_prem.yaml",
    "DIR": "rayvldd_workspace",
    "NAME": "quickstart",
}
"""What a reader puts in place of the capitals in running text, and adds to the name of a command."""

OF_A_RUNNING_STUDY = ("propose", "stop", "pause", "logs")

PYTHON_ELSEWHERE = {
    "README.md": "tests/unit/test_readme.py runs it on a set that its study has distilled",
    "mlflow.md": "tests/integration/tracking/test_student_in_mlflow.py runs it with a server of MLflow",
}
"""Pages whose Python other tests run."""

SMALLER_PYTHON = {
    '"search.num_trials": 4': '"search.num_trials": 1',
    '"my_method", tmp_path': '"expert_fit", tmp_path, protocols=["heads_only"]',
    '{"key": value}': '{"name": "another"}',
    "overrides=…": 'overrides=["name=another"]',
}
"""Replacements in Python: sizes, and what a reader writes in their place."""


def commands_of(document: Path) -> Iterator[str]:
    """The ``rayvldd`` commands in the shell blocks of a page, in order; parts of ``&&`` chains are commands too."""
    for block in blocks(document, "bash"):
        for part in re.split(r"\n| && ", block):
            if re.match(r"(\.venv/bin/)?rayvldd ", part):
                yield part.removeprefix(".venv/bin/").strip()


def mentions_in(document: Path) -> Iterator[str]:
    """The ``rayvldd`` commands in the running text of a page that have all of their arguments."""
    for command in inline_code(document):
        if not command.startswith("rayvldd ") or "|" in command:
            continue
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
        study = {**TINY_STUDY, "name": shipped.stem, "search": SEARCH, "resources": ONE_AT_A_TIME}
        (folder / "search_spaces" / shipped.name).write_text(yaml.safe_dump(study), encoding="utf-8")
    write_photographs(folder, 40)
    for number, photograph in enumerate(sorted((folder / "photos").iterdir())[:6]):
        of_class = folder / "pictures" / ("red_square", "blue_square")[number % 2]
        of_class.mkdir(parents=True, exist_ok=True)
        shutil.copy(photograph, of_class)
    other_data = {**TINY_STUDY["data"], "seed": 1}
    other = {**TINY_STUDY, "name": "other", "data": other_data, "resources": ONE_AT_A_TIME}
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
    values |= {**tiny, "search": SEARCH, "resources": ONE_AT_A_TIME, "data": {**values["data"], "image_size": 16}}
    study_file.write_text(yaml.safe_dump(values), encoding="utf-8")


def write_into_file(study_file: Path, assignments: list[str]) -> None:
    """Write ``SECTION.KEY=VALUE`` into a study file, as a reader does who goes on with a study that was reopened."""
    values = yaml.safe_load(study_file.read_text(encoding="utf-8"))
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        section, _, name = key.partition(".")
        values[section] = {**values[section], name: yaml.safe_load(value)}
    study_file.write_text(yaml.safe_dump(values), encoding="utf-8")


def keep_actors(kept: ExitStack, code: str) -> None:
    """Let actors stay for what runs next, except for the trials of a search: these need the CPUs that actors hold."""
    from rayvldd.runtime.actor_pool import keeping_actors

    if re.search(r"rayvldd sweep|search\(", code):
        kept.close()
    else:
        kept.enter_context(keeping_actors())


def run_as_written(command: str, kept: ExitStack) -> None:
    """Run a command of a page, smaller, and do what a reader does between it and the next one."""
    for written, smaller in SMALLER.items():
        command = command.replace(written, smaller)
    words = [only_expert_set() if word == "KEY" else word for word in shlex.split(command)[1:]]
    if words[0] != "init" and "my_study.yaml" in words and not Path("my_study.yaml").exists():  # a page alone
        run_as_written("rayvldd init my_study.yaml --csv captions.csv --images photos", kept)
    keep_actors(kept, command)
    if words[0] == "export":
        shutil.rmtree(words[2], ignore_errors=True)
    if words[0] in OF_A_RUNNING_STUDY:
        with running_quickstart() as options:
            result = run(*words, *options)
    else:
        result = run(*words)
    assert result.exit_code == 0, f"{command}\n{result.output}"
    if words[0] == "init":
        shrink(Path(words[1]))
    if "--reopen" in words:
        write_into_file(Path(words[1]), [after for word, after in pairwise(words) if word == "--set"])


def only_expert_set() -> str:
    """The key of the first set of experts in the workspace."""
    return str(last_object(run("experts", "list", "--json"))["sets"][0]["key"])


@contextmanager
def running_quickstart() -> Iterator[list[str]]:
    """A copy of the quickstart that runs its trial 3, in a workspace of its own; the options that name it."""
    with TemporaryDirectory() as workspace:
        folder = StudyFolder(Workspace(Path(workspace)).study("quickstart"))
        shutil.copytree(Workspace(Path("rayvldd_workspace")).study("quickstart"), folder.root)
        folder.result_file.unlink()
        ledger = folder.ledger()
        for number in range(len(ledger.trials), 4):
            ledger.start(number, 1, {"distillation.lr_image": 10.0 + number})
        with FileLock(folder.root / ".lock"):
            yield ["--workspace", workspace]


def form_of(command: str) -> tuple[str, frozenset[str]]:
    """The verb of a command with its subcommand, if it has some, and its options with the cluster file that it checks.

    A sweep of the study of ``init`` is another verb.
    """
    words = command.split()
    has_more = words[1] == "experts" or words[1:3] == ["spaces", "copy"]
    verb = words[1 : 3 if has_more else 2] + [word for word in words if word.startswith("my_study")]
    return " ".join(verb), frozenset(re.findall(r"--cluster \S+|--[a-z-]+", command))


def sets_of_the_reader() -> None:
    """The sets that the pages call by a name of the reader's own."""
    best = Path("rayvldd_workspace/studies/quickstart/best")
    for name in ("best_set", "best_100", "best_200", "best_500", "phase_1", "phase_2"):
        if best.is_dir() and not Path(name).exists():
            shutil.copytree(best, name)


@pytest.fixture(scope="module")
def commands_to_run() -> dict[Path, list[str]]:
    """The local commands of each page, each form once; those in running text if no block has at least their options."""
    found: dict[Path, list[str]] = {}
    in_blocks = {form_of(command) for page in DOCUMENTS for command in filter(is_local, commands_of(page))}
    seen: set[tuple[str, frozenset[str]]] = set()
    for document in DOCUMENTS:
        mentions = [
            command
            for command in mentions_in(document)
            if not any(verb == form_of(command)[0] and options >= form_of(command)[1] for verb, options in in_blocks)
        ]
        for command in filter(is_local, chain(commands_of(document), mentions)):
            if form_of(command) not in seen:
                found.setdefault(document, []).append(command)
                seen.add(form_of(command))
    return found


@pytest.fixture(scope="module")
def kept(local_ray: None) -> Iterator[ExitStack]:
    """The actors that stay from one command to the next: each takes seconds to import torch."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def reader(clone: Path, kept: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader in the clone, who has run the quickstart, also if the tests of later pages are run alone."""
    monkeypatch.chdir(clone)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # as a reader has it: the embedded MLflow
    for variable in ("RAYVLDD_FLICKR8K", "RAYVLDD_IMAGE_WEIGHTS", "RAYVLDD_TEXT_ENCODER"):
        monkeypatch.setenv(variable, str(clone))
    if not Path("rayvldd_workspace/studies/quickstart").exists():
        run_as_written("rayvldd sweep search_spaces/quickstart.yaml", kept)
    sets_of_the_reader()


@pytest.mark.timeout(900)  # a dozen commands on one Ray; each takes seconds on a machine that is not busy
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_local_commands_run(
    document: Path, commands_to_run: dict[Path, list[str]], reader: None, kept: ExitStack
) -> None:
    for command in commands_to_run.get(document, []):
        run_as_written(command, kept)


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
    assert "rayvldd sweep search_spaces/quickstart.yaml --workspace rayvldd_workspace" in found["clusters/slurm.md"]


def test_commands_in_the_text_of_guides_are_found(commands_to_run: dict[Path, list[str]]) -> None:
    found = [command for page in DOCUMENTS for command in commands_to_run.get(page, [])]
    assert {command.split()[1] for command in found} >= {"propose", "stop", "pause", "logs", "status"}
    assert "rayvldd spaces copy flickr8k_cpu copied_study.yaml" in found, "also what a line break divides"
    assert "rayvldd experts show KEY" in found
    assert "rayvldd check my_study.yaml --deep" in found
    assert "rayvldd check search_spaces/quickstart.yaml --dry-run" in found
    assert "rayvldd schema" in found and "rayvldd logs quickstart --trial 3" in found


@pytest.mark.parametrize("reason", [*ELSEWHERE.values(), *PYTHON_ELSEWHERE.values()])
def test_tests_that_run_code_of_the_pages_exist(reason: str) -> None:
    named = re.findall(r"tests/\S+\.py", reason)
    assert [name for name in named if not (ROOT / name).is_file()] == []


# --- Python -------------------------------------------------------------------------------------------------------


PYTHON_PAGES = [
    page
    for page in [*DOCUMENTS, DOCS / "results.md"]
    if page.name not in PYTHON_ELSEWHERE and (blocks(page, "python") or [*calls_in(page, SMALLER_PYTHON)])
]


def names_of_the_reader() -> dict[str, Any]:
    """What the calls in running text use without an explanation."""
    import rayvldd

    study = rayvldd.load_study("search_spaces/quickstart.yaml")
    return {
        **{"rv": rayvldd, "rayvldd": rayvldd, "path_or_mapping": "search_spaces/quickstart.yaml"},
        **{"study": study, "real": rayvldd.load_data(study), "sets": ["best_set"]},
        **{"FOLDER": "best_set", "folder_or_uri": "best_set", "distilled": rayvldd.DistilledSet.load("best_set")},
        "image_side": lambda images: images.mean(dim=(2, 3)),
        "text_side": lambda texts: texts[:, :3],
    }


@pytest.mark.timeout(900)  # a search and an evaluation
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_python_runs(page: Path, reader: None, kept: ExitStack, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks(page, "python")):
        for written, smaller in SMALLER_PYTHON.items():
            block = block.replace(written, smaller)
        keep_actors(kept, block)
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    for test in [value for name, value in names.items() if name.startswith("test_")]:
        test(tmp_path)
    if page.name == "python.md":
        result = names["result"]
        assert len(result.trials) == 1 and list(result.best) == ["distillation.lr_image"]
    names = names_of_the_reader() | names
    for call in calls_in(page, SMALLER_PYTHON):
        keep_actors(kept, call)
        assert eval(compile(call, f"{page.name}: {call}", "eval"), names) is not None


def test_python_of_the_guides_is_found() -> None:
    assert {page.name for page in PYTHON_PAGES} >= {"python.md", "phases.md", "export.md"}
    calls = [*calls_in(DOCS / "guides" / "python.md", SMALLER_PYTHON)]
    assert len(calls) >= 9 and 'rv.evaluate(*sets, split="val", coresets=["random"])' in calls
