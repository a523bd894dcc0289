"""What the documents state is true of the code: quoted messages, options, objects, exit codes; quick commands run."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from helpers.cli import last_object, run
from helpers.paths import ROOT

from rayvldd.cli.invocation import EXIT_USER_ERROR, RunCommand
from rayvldd.cli.main import COMMANDS, main
from rayvldd.config.domains import SettingValue
from rayvldd.config.loading import dump_study, load_study
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.study import all_settings
from rayvldd.testing.toy import toy_study

REFERENCE = ROOT / "docs" / "reference"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = re.compile(r"s3://|--address|--submit|--learn-from|--cluster|--buffer|--image-buffer|--probe|--deep")
"""Options of commands that need a bucket, a cluster, other files, an earlier study, or minutes."""
DRAWN = re.compile(r"(search_spaces/)?quickstart(\.yaml)?\b")


def options_of(name: str) -> set[str]:
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, RunCommand)
    return {option for parameter in command.params for option in parameter.opts}


def texts_of_the_code() -> Iterator[str]:
    """All strings of the package, with ``…`` for the values that are put into them."""
    for file in sorted((ROOT / "rayvldd").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_quoted_messages_are_messages_of_the_code() -> None:
    lines = (REFERENCE / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    quoted = [text for line in lines for text in re.findall(r'"([^"]+)"', line)]
    assert len(quoted) >= 2
    known = list(texts_of_the_code())
    assert [text for text in quoted if not any(text in message for message in known)] == []


def test_the_readme_names_the_commands_that_take_settings() -> None:
    sentence = re.search(r"^(`check`.*?) take `--set KEY=VALUE`", (ROOT / "README.md").read_text(), re.M | re.S)
    assert sentence is not None
    assert set(re.findall(r"`(\w+)`", sentence[1])) == {name for name in COMMANDS if "--set" in options_of(name)}
    assert all("--json" in options_of(name) for name in COMMANDS)


def test_the_objects_of_all_commands_are_described() -> None:
    table = (REFERENCE / "files.md").read_text(encoding="utf-8").partition("| command | main keys |")[2]
    described = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert described == set(COMMANDS)


def test_settings_that_are_named_exist() -> None:
    settings = set(all_settings())
    sections = {key.rpartition(".")[0] for key in settings} - {""}
    short = {section.removeprefix("distillation.") for section in sections}
    names = re.compile(rf"(?<![\w./-])((?:{'|'.join(sorted(sections | short))})\.\w+)(?![\w./(])")
    named = {(page.name, key) for page in PAGES for key in names.findall(page.read_text(encoding="utf-8"))}
    assert len(named) >= 50
    known = settings | sections
    assert {(page, key) for page, key in named if key not in known and f"distillation.{key}" not in known} == set()


LONGER: dict[str, SettingValue] = {"experts.epochs": 4, "data.num_train": 80}
"""A study with enough images and expert epochs for the phases of the guide."""


def test_the_study_of_the_guide_on_phases_has_two_trials_at_its_ranges(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "guides" / "phases.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.M | re.S)
    (tmp_path / "phases.yaml").write_text(block, encoding="utf-8")
    (tmp_path / "my_study.yaml").write_text(dump_study(toy_study().at(LONGER)), encoding="utf-8")
    study = load_study(tmp_path / "phases.yaml")
    found = [study.at(point).distillation.of(TrajectoryMatchingSettings) for point in study.initial_points()]
    assert [(each.min_start_epoch, each.max_start_epoch) for each in found] == [(0, 2), (1, 3)]
    assert study.max_trials == len(found) and study.trial_seed(0) != study.trial_seed(1)


def test_all_exit_codes_are_constants_of_one_module() -> None:
    """The page on exit codes is generated from this module."""
    named = {
        file.name
        for file in (ROOT / "rayvldd" / "cli").glob("*.py")
        if re.search(r"^EXIT_\w+ = ", file.read_text(encoding="utf-8"), re.M)
    }
    assert named == {"invocation.py"}


@pytest.mark.parametrize("arguments", [["sweep", "x.yaml", "--sett", "a=1"], ["check"], ["logs", "--trial", "1"]])
def test_an_error_of_the_words_of_a_command_ends_with_an_object_too(arguments: list[str]) -> None:
    result = run(*arguments, "--json")
    assert result.exit_code == EXIT_USER_ERROR
    values = last_object(result)
    assert (values["error"], values["next_command"]) == ("UsageError", f"rayvldd {arguments[0]} --help")
    assert values["message"] in result.stderr


def quick_commands() -> list[str]:
    """Commands of the documents on the drawn data, each form once, which a dry run checks within seconds."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in re.split(r"\n| && ", block):
                words = shlex.split(line.removeprefix(".venv/bin/"), comments=True)
                if (
                    words[:1] != ["rayvldd"]
                    or len(words) < 3
                    or not DRAWN.fullmatch(words[2])
                    or ELSEWHERE.search(line)
                ):
                    continue
                if words[1] in ("check", "prepare", "experts", "distill", "sweep", "coreset"):
                    form = " ".join([words[1], *(word for word in words if word.startswith("--"))])
                    found.setdefault(form, shlex.join(words))
    return list(found.values())


@pytest.mark.parametrize("line", quick_commands())
def test_commands_on_the_drawn_data_pass_their_checks(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").symlink_to(ROOT / "search_spaces")
    words = shlex.split(line)[1:]
    result = run(*words, *([] if "--dry-run" in words else ["--dry-run"]))
    assert result.exit_code == 0, result.output
    assert [file.name for file in tmp_path.iterdir()] == ["search_spaces"], "no folder is left"


@pytest.mark.parametrize("line", ["spaces", "spaces quickstart", "schema", "status", "experts list"])
def test_commands_that_only_read_run_in_an_empty_folder(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*line.split())
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0 and "Examples:" in result.output


def test_the_list_of_commands_has_whole_sentences() -> None:
    listed = run("--help").output.partition("Commands:")[2].partition("Examples:")[0]
    lines = [line for line in listed.splitlines() if line.strip()]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def test_a_set_that_is_not_there_leaves_no_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "nothing").exit_code == EXIT_USER_ERROR
    assert list(tmp_path.iterdir()) == []
