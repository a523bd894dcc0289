"""Completion of the shell, through click's own protocol."""

from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from rayvldd.cli.main import main


def completed(*words: str) -> list[str]:
    """The completions of the last word."""
    complete = BashComplete(main, {}, "rayvldd", "_RAYVLDD_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_shipped_studies_complete_beside_files() -> None:
    assert completed("sweep", "quick") == ["quickstart", "quick"]
    assert completed("check", "flickr8k_co") == ["flickr8k_covariance_cpu", "flickr8k_co"]


@pytest.mark.parametrize("verb", ["compare", "ui", "logs", "stop", "pause", "propose", "export"])
def test_studies_of_the_workspace_complete(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "fast", "other"):
        (tmp_path / "studies" / name).mkdir(parents=True)
    monkeypatch.setenv("RAYVLDD_WORKSPACE", str(tmp_path))
    assert completed(verb, "f") == ["fast", "first"]
    monkeypatch.setenv("RAYVLDD_WORKSPACE", str(tmp_path / "none"))
    assert completed(verb, "") == []
    assert completed(verb, "--workspace", str(tmp_path), "o") == ["other"]


def test_keys_of_settings_complete_section_by_section() -> None:
    assert completed("sweep", "x.yaml", "--set", "search.num_t") == ["search.num_trials="]
    sections = completed("sweep", "x.yaml", "--set", "")
    assert "name=" in sections and "distillation." in sections and len(sections) < 15
    assert "distillation.lr_image=" in completed("sweep", "x.yaml", "--set", "distillation.")
