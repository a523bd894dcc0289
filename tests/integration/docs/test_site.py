"""The documentation site is built without a warning, and its reference is that of the code."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from rayvldd.cli.main import COMMANDS
from rayvldd.config.study import all_settings

pytest.importorskip("mkdocs", reason="the site is built with the extra `docs`, which is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``mkdocs build --strict`` writes it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # mkdocs-material announces its successor at every build.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def text_of(page: Path) -> str:
    """The text of the article of a page."""
    article = re.search(r"<article.*</article>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert article
    return html.unescape(re.sub(r"<[^>]+>", "", article.group()))


def test_every_command_has_its_section(site: Path) -> None:
    text = text_of(site / "reference" / "cli.html")
    assert [name for name in COMMANDS if f"rayvldd {name} [OPTIONS]" not in text] == []
    assert "rayvldd experts prune" in text, "also those below a command"
    assert "--tracking-uri" in text and "rayvldd sweep search_spaces/quickstart.yaml" in text


def test_every_setting_has_its_row(site: Path) -> None:
    text = text_of(site / "reference" / "settings.html")
    assert [key for key in all_settings() if key not in text] == []
    assert "Wu et al.: 1000; LoRS: 100 to 5000" in text, "with its source"


def test_generated_marks_are_filled_and_files_of_the_repository_are_there(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    assert [page.name for page in pages if "<!-- generated:" in page.read_text(encoding="utf-8")] == []
    assert (site / "repository" / "clusters" / "on_prem.yaml").is_file()
    assert "tests are in three tiers" in text_of(site / "contributing.html").lower()


def test_the_notebook_is_a_page(site: Path) -> None:
    text = text_of(site / "guides" / "notebook.html")
    cells = json.loads((ROOT / "docs" / "guides" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
    assert len(lines) >= 10 and [line for line in lines if line not in text] == []
    assert "A study is immutable; override returns another one." in text, "with the text between the code"
    assert (site / "guides" / "quickstart.ipynb").is_file()


def test_no_page_loads_anything_from_another_server(site: Path) -> None:
    loaded = re.compile(r"""<(?:script|img|link)[^>]+(?:src|href)=["']?(https?://[^"' >]+)""")
    found = {address for page in site.rglob("*.html") for address in loaded.findall(page.read_text(encoding="utf-8"))}
    assert found == set()


def test_exit_codes_are_those_of_the_code(site: Path) -> None:
    from rayvldd.cli import invocation
    from rayvldd.cli.interrupts import Terminated, exit_code_of

    codes = [value for name, value in vars(invocation).items() if name.startswith("EXIT_")]
    codes += [exit_code_of(error) for error in (KeyboardInterrupt(), Terminated())]
    text = text_of(site / "reference" / "exit-codes.html")
    assert [code for code in codes if str(code) not in text] == []
