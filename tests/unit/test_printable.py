"""Text of others on a terminal: no control character reaches it, and nothing is markup."""

from io import StringIO

import pytest
from rich.console import Console

from rayvldd.console import ProgressDisplay
from rayvldd.evaluation.breakdown import SubjectShare
from rayvldd.printable import counted, fitted, printable, without_passwords
from rayvldd.reports.renderers import as_terminal
from rayvldd.reports.table import Table, texts
from rayvldd.reports.tables import subjects_table

HOSTILE = "dog\x1b]0;owned\x07\x9b31m\u202egod [bold]cat[/bold]"
SHOWN = r"dog\x1b]0;owned\x07\x9b31m\u202egod [bold]cat[/bold]"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 pairs"), (1, "1 pair"), (1.0, "1 pair"), (2, "2 pairs"), (0.5, "0.5 pairs"), (1_234_567, "1234567 pairs")],
)
def test_nouns_are_counted_in_singular_and_plural(number: float, shown: str) -> None:
    assert counted(number, "pair") == shown


@pytest.mark.parametrize("text", ["", "a dog", "déjà vu – 狗 🐕", "two\nlines\tand a tab"])
def test_text_without_control_characters_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short", "short"),
        ("trial_000  finished  val mean recall 18.49", "trial_000  finished  val mean recall\n           18.49"),
        ("  then:    the best on validation is tested", "  then:    the best on validation is\n           tested"),
        ("a sentence of several words that goes on", "a sentence of several words that\n  goes on"),
        ("in /a/path/that/is/longer/than/the/whole/line", "in\n  /a/path/that/is/longer/than/the/whole/line"),
        ("Next: rayvldd compare one two three four", "Next: rayvldd compare one two three four"),
        (
            "page    rayvldd compare tiny --out one, which writes two",
            "page    rayvldd compare tiny --out one\n        which writes two",
        ),
        (
            "Next: correct the file, then: rayvldd check x.yaml --set a=1",
            "Next: correct the file, then:\n  rayvldd check x.yaml --set a=1",
        ),
        (
            "Next: rayvldd sweep x.yaml, or rayvldd check 'y, z.yaml'",
            "Next: rayvldd sweep x.yaml\n  or\n  rayvldd check 'y, z.yaml'",
        ),
        (
            "trial_000  stopped  val 1; stopped by rayvldd stop",
            "trial_000  stopped  val 1; stopped\n           by rayvldd stop",
        ),
        ("Next: pip install 'a[b]' wandb one, then again", "Next: pip install 'a[b]' wandb one\n  then again"),
        (
            "Next: rayvldd spaces copy quickstart, ../a/b, or .c",
            "Next: rayvldd spaces copy quickstart\n  ../a/b, or .c",
        ),
        (
            "a point that `rayvldd distill` could distil again",
            "a point that `rayvldd distill` could\n  distil again",
        ),
        ("one line\nand another one that is too long for it", "one line\nand another one that is too long for\n  it"),
    ],
)
def test_lines_are_broken_between_words(text: str, shown: str) -> None:
    assert fitted(text, 36) == shown


def test_lines_of_progress_fit_a_terminal_and_stay_whole_in_a_file() -> None:
    text = "trial_000  finished  val mean recall 18.49 at step 4  lr_image=6.35, lr_text=1.7, syn_steps=4"
    terminal, file = StringIO(), StringIO()
    ProgressDisplay(Console(file=terminal, force_terminal=True, highlight=False, width=80)).line(text)
    ProgressDisplay(Console(file=file, width=80)).line(text)
    assert file.getvalue() == f"{text}\n"
    assert terminal.getvalue().split() == text.split()
    assert max(map(len, terminal.getvalue().splitlines())) <= 80


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://reader:secret@host:5000/x", "http://reader:***@host:5000/x"),
        ('{"uri": "postgresql+psycopg2://a:p%40w@h/db"}', '{"uri": "postgresql+psycopg2://a:***@h/db"}'),
        ("rayvldd ui --tracking-uri 'http://:pw@h'", "rayvldd ui --tracking-uri 'http://:***@h'"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("models:/quickstart@best", "models:/quickstart@best"),
    ],
)
def test_passwords_of_addresses_are_left_out(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_every_control_character_is_spelt_out() -> None:
    codes = [*range(0x20), *range(0x7F, 0xA0)]
    shown = printable("".join(map(chr, codes)))
    assert [char for char in shown if not char.isprintable()] == ["\t", "\n"]
    assert printable(HOSTILE) == SHOWN


def test_tables_and_lines_show_hostile_text_as_it_is() -> None:
    share = SubjectShare(HOSTILE, data=0.5, start=None, kept=0.2, interval=(0.1, 0.4))
    of_row = Table(texts(HOSTILE), [[HOSTILE]], HOSTILE)
    for table, count in ((subjects_table([share], HOSTILE), 2), (of_row, 3)):
        console = Console(file=StringIO(), width=300, force_terminal=False)
        console.print(as_terminal(table))
        assert isinstance(console.file, StringIO)
        shown = console.file.getvalue()
        assert shown.count(SHOWN) == count and "\x1b" not in shown and "\x07" not in shown
    console = Console(file=StringIO(), width=300)
    ProgressDisplay(console).line(HOSTILE)
    assert isinstance(console.file, StringIO) and SHOWN in console.file.getvalue()
