"""One table in four renderings, compared with texts written by hand."""

import csv
import io

import pytest
from rich.console import Console

from rayvldd.reports.renderers import as_csv, as_html, as_latex, as_terminal
from rayvldd.reports.table import Column, Estimate, Table, numbers, texts

HOSTILE = 'a <b>dog</b> & "cat" 100 % of $5_000'


@pytest.fixture
def table() -> Table:
    columns = [
        *texts("trained on"),
        *numbers("pairs"),
        Column("mean", "%", "right", "{:.1f}"),
        Column("rate", align="right"),
        Column("reason", is_detail=True),
    ]
    rows = [
        ("distilled", 100, Estimate(17.25, (16.75, 17.75), 0.5, is_own=True), 1234.5, ""),
        (HOSTILE, None, Estimate(5.0), 0.00012345, "diverged"),
    ]
    return Table(columns, rows, "Recall (%)", "recalls", best=frozenset({0}))


def printed(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(as_terminal(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_shows_rounded_values_and_no_details(table: Table) -> None:
    lines = printed(table).splitlines()
    assert lines[0] == "Recall (%)"
    assert lines[1].split() == ["trained", "on", "pairs", "mean", "(%)", "rate"]
    assert lines[2].split() == ["distilled", "*", "100", "17.2±0.5", "(50", "%)", "1234"]
    assert HOSTILE in lines[3] and lines[3].split()[-3:] == ["–", "5.0", "0.000123"]
    assert "diverged" not in printed(table)


def test_a_wide_table_is_continued_below_without_broken_words() -> None:
    titles = [f"distillation_setting_{number}" for number in range(9)]
    table = Table([*texts("trial"), *numbers(*titles)], [["trial_001", *range(9)], ["trial_002", *range(9, 18)]])
    text = printed(table)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(text.count(title) == 1 for title in titles), "every heading is whole, and shown once"
    assert text.count("trial_001") == text.count("trial_002") == 3, "the first column is repeated"
    assert "…" not in text
    assert printed(table, 400).count("trial_001") == 1


def test_sentences_wrap_between_words_and_long_paths_are_whole_when_joined() -> None:
    path = "/data/" + "x" * 90
    row = ("the set of a study whose name has many words in it", path)
    lines = printed(Table(texts("study", "folder"), [row])).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert path in "".join(line.split()[-1] for line in lines[1:])


@pytest.mark.parametrize("name", ["quickstart", "quickstart_b", "a_study_with_a_long_name", "x" * 24, "写真の学習" * 4])
@pytest.mark.parametrize("mark", ["*", "(3)", "(12) *"])
def test_a_mark_stands_in_a_line_with_the_end_of_its_name(name: str, mark: str) -> None:
    students, _, star = mark.rpartition("*") if "*" in mark else (mark, "", None)
    row = (f"{name} {students}".strip(), "9.07")
    for width in range(18, 48, 3):
        table = Table([*texts("study"), *numbers("test")], [row], best=frozenset({0} if star is not None else ()))
        shown = [line.removesuffix("9.07").strip() for line in printed(table, width).splitlines()[1:]]
        assert "".join(shown).replace(" ", "") == (name + mark).replace(" ", "")
        assert shown[-1].endswith(mark) and shown[-1] != mark, "the end of the name is in the last line"


def test_a_long_name_is_broken_behind_a_separator() -> None:
    table = Table([*texts("study"), *numbers("test")], [("a_study_with_a_long_name", 9)], best=frozenset({0}))
    assert [line.split()[0] for line in printed(table, 17).splitlines()[1:]] == ["a_study_", "with_a_long_", "name"]


def test_html_escapes_texts_and_keeps_the_numbers_for_sorting(table: Table) -> None:
    html = as_html(table, identifier="recalls-1", sortable=True)
    assert html.startswith('<table id="recalls-1" class="sortable">\n<caption>Recall (%)</caption>')
    assert '<th scope="col"><button type="button">mean (%)</button></th>' in html
    assert '<tr class="best">' in html and html.count("★") == 1
    own = (
        '<td class="number own" data-value="17.25">17.2 ± 0.5 <span class="share">(50 %)</span>'
        '<span class="unseen"> (its own encoder)</span></td>'
    )
    assert own in html
    assert "&lt;b&gt;dog&lt;/b&gt; &amp; &quot;cat&quot;" in html and "<b>" not in html
    assert '<td class="number">–</td>' in html and "<td>diverged</td>" in html
    plain = as_html(table)
    assert "<button" not in plain and plain.startswith("<table>")
    assert 'data-trial="weak/distilled" tabindex="0"' in as_html(table, study="weak")


def test_long_names_may_end_a_line_behind_an_underscore() -> None:
    row = ("trial_001", "flickr8k_of_all_pairs", "convnet_d3, hashed_ngrams")
    html = as_html(Table(texts("trial", "study", "measured on"), [row]))
    assert ">trial_001<" in html and ">convnet_d3, hashed_ngrams<" in html
    assert ">flickr8k_<wbr>of_<wbr>all_<wbr>pairs<" in html


def test_csv_has_unrounded_numbers_and_the_parts_of_estimates(table: Table) -> None:
    first, second = csv.DictReader(io.StringIO(as_csv(table)))
    assert first == {
        "trained on": "distilled",
        "pairs": "100",
        "mean (%)": "17.25",
        "mean (%) 95 % low": "16.75",
        "mean (%) 95 % high": "17.75",
        "mean (%) share of full data": "0.5",
        "rate": "1234.5",
        "reason": "",
    }
    assert second["trained on"] == HOSTILE and second["pairs"] == second["mean (%) share of full data"] == ""


def test_latex_is_a_booktabs_tabular(table: Table) -> None:
    assert as_latex(table).splitlines() == [
        "% Recall (%)",
        r"\begin{tabular}{lrrrl}",
        r"\toprule",
        r"trained on & pairs & mean (\%) & rate & reason \\",
        r"\midrule",
        r"\textbf{distilled} & \textbf{100} & \textbf{17.2 $\pm$ 0.5 (50 \%)} & \textbf{1234} & \textbf{} \\",
        r"a <b>dog</b> \& " + '"cat"' + r" 100 \% of \$5\_000 & -- & 5.0 & 0.000123 & diverged \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_row_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells for 2 columns"):
        Table(texts("a", "b"), [("x",)])


def test_an_empty_table_has_its_headings() -> None:
    table = Table([*texts("name"), *numbers("value")], [])
    assert printed(table).split() == ["name", "value"]
    assert as_csv(table) == "name,value\n"
    assert r"name & value \\" in as_latex(table) and "<tbody>" in as_html(table)


def test_a_skewed_interval_shows_its_ends() -> None:
    column = Column("mean", number="{:.1f}")
    assert column.text(Estimate(17.25, (16.5, 18.25))) == "17.2 ± 0.9"
    assert column.text(Estimate(95.8, (20.3, 99.7))) == "95.8 [20.3, 99.7]"
    assert column.text(Estimate(100.0, (100.0, 100.0))) == "100.0 ± 0.0"
