"""``rayvldd compare`` while it takes time: what a terminal shows, and ``--watch``, with the page of a running study."""

import re
import time
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock
from helpers.cli import run
from helpers.searches import evaluated, with_search

from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.cli.main import main
from rayvldd.config.study import Study
from rayvldd.errors import StoreError
from rayvldd.hyperparameter_search.study_folder import StudyFolder

RELOADED = '<meta http-equiv="refresh" content="30">'


def test_the_page_is_written_again_while_the_study_runs(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StudyFolder(tmp_path / "studies" / "tiny")
    with folder.opened(with_search(tiny_study)):
        ledger = folder.ledger()
    page, lock, pages = tmp_path / "comparison" / "compare.html", FileLock(folder.root / ".lock"), list[str]()

    def wait(seconds: float) -> None:
        """A trial ends in the meantime; after the second time the study does not run any more."""
        assert seconds == 30
        pages.append(page.read_text(encoding="utf-8"))
        number = len(pages) - 1
        ledger.start(number, 1, {"distillation.lr_image": 10.0 + number})
        ledger.add_evaluation(f"trial_00{number}", evaluated(2, 7.0))
        ledger.end(f"trial_00{number}", "stopped")
        if len(pages) == 2:
            lock.release()

    monkeypatch.setattr("rayvldd.cli.compare.time.sleep", wait)
    with lock:
        result = run("compare", "tiny", "--watch", "30", "--workspace", tmp_path)
    assert result.exit_code == 0, result.output
    assert len(pages) == 2 and all(RELOADED in text for text in pages)
    assert "trial_000" in pages[1] and "trial_000" not in pages[0]
    last = page.read_text(encoding="utf-8")
    assert "trial_001" in last and RELOADED not in last, "nothing is written to it any more"
    assert "tiny running, 1 trials have ended" in result.output


def test_the_line_of_a_terminal_moves_while_compare_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def slow(*_names: str, **_options: object) -> None:
        begun.append(terminal.getvalue())
        time.sleep(2.5)
        raise StoreError("read", next_command="rayvldd compare")

    terminal = StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("rayvldd.library.comparing.compare", slow)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--workspace", str(tmp_path)], standalone_mode=False)
    assert ended.value.code == EXIT_USER_ERROR
    assert "reading the studies" in begun[0], "before the first study is read"
    during = terminal.getvalue().removeprefix(begun[0])
    times = re.findall(r"reading the studies and drawing the page .*?(0:00:0\d)", during)
    assert {"0:00:01", "0:00:02"} <= set(times), during
