"""``rayvldd spaces``: shipped studies are listed, shown and copied."""

from pathlib import Path

import pytest
from helpers.cli import last_object, run

from rayvldd.config.loading import load_study
from rayvldd.config.shipped_spaces import shipped_spaces
from rayvldd.config.study_files import read_study


def test_shipped_studies_are_listed_shown_and_copied(tmp_path: Path) -> None:
    listed = run("spaces")
    assert "quickstart" in listed.output and "Toy scenes" in listed.output
    assert "max_start_epoch" in run("spaces", "quickstart").output
    assert run("spaces", "quickstart", "--copy", tmp_path / "mine.yaml").exit_code == 0
    assert load_study(tmp_path / "mine.yaml") == load_study("quickstart")
    assert "is there already" in run("spaces", "quickstart", "--copy", tmp_path / "mine.yaml").stderr
    assert "did you mean 'quickstart'" in run("spaces", "quickstrat").stderr
    assert run("spaces", "--copy", tmp_path / "x.yaml").exit_code == 2


def test_copy_and_list_are_words_of_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not {"list", "copy"} & set(shipped_spaces())
    assert last_object(run("spaces", "list", "--json")) == last_object(run("spaces", "--json"))
    copied = run("spaces", "copy", "quickstart", "--json")
    assert copied.exit_code == 0, copied.output
    assert last_object(copied) == {"name": "quickstart", "file": "quickstart.yaml"}
    assert run("spaces", "copy", "quickstart", "mine.yaml").exit_code == 0
    assert Path("mine.yaml").read_text() == Path("quickstart.yaml").read_text()
    again = run("spaces", "copy", "quickstart", "mine.yaml")
    assert again.exit_code == 2 and "rayvldd spaces copy quickstart ANOTHER.yaml" in again.stderr
    assert "did you mean 'quickstart'" in run("spaces", "copy", "quickstrat").stderr
    for wrong in (["copy"], ["list", "quickstart"], ["quickstart", "mine.yaml"], ["copy", "quickstart", "--copy", "x"]):
        refused = run("spaces", *wrong)
        assert refused.exit_code == 2 and "Error:" in refused.stderr, wrong


@pytest.mark.parametrize("name", shipped_spaces())
def test_a_copy_of_a_shipped_study_is_the_same_study_in_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("RAYVLDD_FLICKR8K", "RAYVLDD_IMAGE_WEIGHTS", "RAYVLDD_TEXT_ENCODER"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert run("spaces", "copy", name, tmp_path / "mine.yaml").exit_code == 0
    assert (
        read_study(tmp_path / "mine.yaml", lambda key: False).values == read_study(Path(name), lambda key: False).values
    )


def test_a_copy_names_the_schema_beside_it(tmp_path: Path) -> None:
    assert run("spaces", "copy", "quickstart", tmp_path / "q.yaml").exit_code == 0
    assert (tmp_path / "q.yaml").read_text().startswith("# yaml-language-server: $schema=study.schema.json\n")
    assert "A study of rayvldd" in (tmp_path / "study.schema.json").read_text()
    (tmp_path / "study.schema.json").write_text("{}")
    refused = run("spaces", "copy", "quickstart", tmp_path / "r.yaml")
    assert refused.exit_code == 2 and "is no schema of studies" in refused.stderr
    assert not (tmp_path / "r.yaml").exists()


def test_a_copy_does_not_take_the_place_of_the_schema(tmp_path: Path) -> None:
    refused = run("spaces", "copy", "quickstart", tmp_path / "study.schema.json")
    assert refused.exit_code == 2 and "the name of the schema" in refused.stderr and "another name" in refused.stderr
    assert not list(tmp_path.iterdir())
