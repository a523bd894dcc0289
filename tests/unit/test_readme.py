"""The documents are correct: their commands parse, their links exist, and CI runs the README's test line."""

import contextlib
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml
from helpers.documents import blocks
from helpers.paths import ROOT

import rayvldd
from rayvldd.cli.main import COMMANDS, main
from rayvldd.config.loading import dump_study
from rayvldd.config.study import Study

if TYPE_CHECKING:
    from torch.nn import Module

    from rayvldd.models.retrieval_model import RetrievalModel
    from rayvldd.models.retrieval_task import SplitInputs

PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]

_INLINE = re.compile(r"`(rayvldd [^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def shell_commands(document: Path) -> Iterator[list[str]]:
    """Every single command of the shell blocks, as words; the parts of an ``&&`` chain are commands of their own."""
    for block in blocks(document, "bash"):
        for line in block.splitlines():
            yield from (shlex.split(part) for part in line.split(" && "))


def commands_of(document: Path) -> list[str]:
    """The ``rayvldd`` commands in the documents."""
    return [shlex.join(words) for words in shell_commands(document) if words[0].endswith("rayvldd")]


def mentions_in(document: Path) -> list[str]:
    """The ``rayvldd`` commands in running text, often without their arguments."""
    return [line for line in _INLINE.findall(document.read_text(encoding="utf-8")) if "|" not in line]


def parse(line: str) -> None:
    """Let click parse a command line as if it were to run."""
    _, name, *arguments = shlex.split(line)
    if name in ("--help", "--version"):
        return
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"no command {name!r}"
    if arguments != ["--help"]:
        command.make_context(name, arguments)
    for argument in arguments:
        assert not argument.startswith("search_spaces/") or (ROOT / argument).is_file()


COMMANDS_TO_RUN = list(dict.fromkeys(line for document in DOCUMENTS for line in commands_of(document)))
MENTIONS = list(dict.fromkeys(line for document in DOCUMENTS for line in mentions_in(document)))


def test_commands_are_found() -> None:
    assert COMMANDS_TO_RUN
    assert {line.split()[1] for line in MENTIONS} >= set(COMMANDS)


@pytest.mark.parametrize("line", COMMANDS_TO_RUN)
def test_command_parses(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("line", MENTIONS)
def test_mentioned_command_and_options_exist(line: str) -> None:
    with contextlib.suppress(click.MissingParameter):
        parse(line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_to_files_resolve(document: Path) -> None:
    links = [link for link in _LINK.findall(document.read_text(encoding="utf-8")) if not link.startswith("http")]
    assert [link for link in links if not (document.parent / link.split("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_link_to_no_section_of_the_readme(page: Path) -> None:
    """On the site the overview, which has other sections, is in its place."""
    assert [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "README.md#" in link] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_tools_of_the_environment_are_those_of_the_project(document: Path) -> None:
    known = {"pip", "uv", "python", "rayvldd", "mlflow", "mkdocs", "pytest", "mypy", "ruff", "pre-commit"}
    used = {Path(words[0]).name for words in shell_commands(document) if words[0].startswith(".venv/bin/")}
    assert used <= known


def test_commands_of_the_site_show_no_notice_of_its_theme() -> None:
    """mkdocs-material announces its successor at every call."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "justfile")]
    found = [command for text in texts for command in re.findall(r"[^`\n]*mkdocs (?:serve|build)", text)]
    assert len(found) == 2 and all(command.strip().startswith("NO_MKDOCS_2_WARNING=1 ") for command in found)


def test_ci_runs_the_test_line_of_the_readme() -> None:
    lines = [line for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines()]
    start = "python3 -m venv .venv && .venv/bin/pip install -q "
    search, tests = [line.split(" && ") for line in lines if line.startswith(start)]
    assert search[-1] == ".venv/bin/rayvldd sweep search_spaces/quickstart.yaml"
    assert tests[-2:] == [
        ".venv/bin/pytest -q -n 2 tests/unit",
        ".venv/bin/pytest -q -n 3 --dist loadfile tests/integration tests/system",
    ], "the fast tier first"
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_training_example_of_the_readme_prints_the_recall_of_its_student(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from helpers.tasks import load, random_trajectory

    from rayvldd.distillation.loop import OuterLoop

    monkeypatch.chdir(tmp_path)
    Path("search_spaces").mkdir()
    Path("search_spaces/quickstart.yaml").write_text(dump_study(tiny_study), encoding="utf-8")
    task = load(tiny_study, Path("rayvldd_workspace/cache"), **{"distillation.num_pairs": 8})
    distilled = OuterLoop(task.study, task, [random_trajectory(task.model)], seed=0).distilled_set()
    distilled.save("rayvldd_workspace/studies/quickstart/best")
    torch.manual_seed(0)
    (example,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in example.splitlines() if line]) <= 12
    names: dict[str, Any] = {}
    capsys.readouterr()
    exec(compile(example, "README.md", "exec"), names)
    assert names["loss"].item() < 2 * math.log(8) / 2, "half of what guessing gives"
    printed = re.fullmatch(
        r"mean recall ([\d.]+) %, image to text R@1/5/10 (.*), text to image (.*)\n", capsys.readouterr().out
    )
    assert printed is not None
    assert float(printed[1]) == pytest.approx(
        mean_recall_by_sorting(task.val, task.model, names["image_head"], names["text_head"]), abs=0.06
    )


def mean_recall_by_sorting(
    inputs: "SplitInputs", model: "RetrievalModel", image_head: "Module", text_head: "Module"
) -> float:
    """Mean recall of a student whose sides are linear heads, in percent, from a sorted list for each query."""
    import numpy as np
    import torch

    pixels = model.normalise(torch.tensor(np.array(inputs.split.pixels)).float() / 255)
    with torch.no_grad():
        images = torch.nn.functional.normalize(image_head(model.frozen_part(pixels))).numpy()
        texts = torch.nn.functional.normalize(text_head(torch.tensor(np.array(inputs.caption_embeddings)))).numpy()
    is_right = np.arange(len(images))[:, None] == inputs.split.caption_image
    recalls = []
    for scores, right in ((images @ texts.T, is_right), ((images @ texts.T).T, is_right.T)):
        sorted_right = np.take_along_axis(right, np.argsort(-scores, axis=1), axis=1)
        recalls += [100 * sorted_right[:, :k].any(axis=1).mean() for k in (1, 5, 10)]
    return float(np.mean(recalls))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9 * 1024


def test_recipes_name_folders_that_are_there() -> None:
    recipes = (ROOT / "justfile").read_text(encoding="utf-8")
    folders = set(re.findall(r"tests/\w+", recipes))
    assert folders >= {"tests/unit", "tests/integration", "tests/system"}
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_sections_of_a_study_in_the_documents_are_valid(tiny_study: Study) -> None:
    sections = [yaml.safe_load(block) for document in DOCUMENTS for block in blocks(document, "yaml")]
    whole = [section for section in sections if "extends" in section]
    assert [study["name"] for study in whole] == ["phases"], "whole studies have tests in test_documents.py"
    sections = [section for section in sections if section not in whole]
    assert {key for section in sections for key in section} == {"data", "distillation", "resources", "search"}
    for section in sections:
        Study.model_validate(tiny_study.model_dump(mode="json") | section)


def test_the_citation_names_this_release_and_the_method() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rayvldd.__version__ and citation["cff-version"] == "1.2.0"
    assert citation["references"][0]["title"] == "Vision-Language Dataset Distillation"
