"""Measured numbers live in docs/results.md: what another page repeats is in its first table, with its origin."""

import re
from itertools import takewhile
from pathlib import Path

import pytest
from helpers.paths import ROOT

RESULTS = ROOT / "docs" / "results.md"
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page != RESULTS)]
COLUMNS = ["claim", "number", "command", "evidence", "machine", "date"]

NOT_MEASURED = {
    r"!\[[^]]*\]\([^)]*\)": "what a picture shows",
    r"\]\([^)]*\)": "where a link leads",
    r"arXiv \d{4}\.\d{5}": "a paper",
    r"(Python|Ray|TF|Apache-|rayvldd|release|Slurm|Debian|CUDA|Optuna|MLflow|PyTorch) ?\d+\.\d+(\.\d+)?": "a release",
    r"\b95 %": "the level of an interval",
    r"\bevery \d+ (seconds|minutes)": "what a program does at this interval",
    r"\d[\d.]* to \d[\d.]* USD": "a price, whose source is in the cluster file",
}
"""Numbers with a decimal point or a unit that are no results, with what they are."""
EXAMPLES = {
    "docs/clusters/on-prem.md": "the output of a study of tiny trials on three hosts, shortened",
    "docs/guides/search.md": "weights in an example of a line",
}
"""Pages whose output or quoted lines are examples."""
CONSTANTS = {
    "docs/evaluations.md": {"0.01", "0.83", "5 %"},  # the noise; the critical value of a rank correlation
    "docs/guides/rates.md": {"0.05"},  # a setting
    "docs/reference/methods.md": {"1e-5"},  # a tolerance of the tests
}
"""Numbers of definitions, by page."""

UNIT = r"%|minutes|seconds|GB|MB|points"
NUMBER = re.compile(rf"(?<![\w.,/@-])\d+(?:\.\d+)?(?:e-?\d+)?(?: (?:{UNIT})\b| %)?")


def rows() -> list[list[str]]:
    """The cells of the table of claims."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    first = lines.index(f"| {' | '.join(COLUMNS)} |")
    table = lines[first + 2 : lines.index("", first)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def numbers_in(text: str) -> list[str]:
    """The numbers of a text with a decimal point, a power of ten or a unit; units other than % are left out."""
    found = [number for number in NUMBER.findall(text) if re.search(r"[. ]|e", number)]
    return [re.sub(rf" (?!%)({UNIT})$", "", number) for number in found]


def repeated_numbers(page: Path) -> list[str]:
    """The measured numbers in the text and the shown output of a page."""
    name = page.relative_to(ROOT).as_posix()
    text = page.read_text(encoding="utf-8")
    kept = ("text",) if name not in EXAMPLES else ()
    text = re.sub(r"^```(\w*)\n(.*?)^```", lambda block: block[2] if block[1] in kept else "", text, flags=re.M | re.S)
    text = re.sub(r"`([^`\n]*)`", lambda code: code[1] if code[1].startswith("mean recall") else "", text)
    for pattern in NOT_MEASURED:
        text = re.sub(pattern, "", text)
    return [number for number in numbers_in(text) if number not in CONSTANTS.get(name, ())]


def stated() -> set[str]:
    """The numbers of all claims, each with and without its unit."""
    text = " ".join(f"{claim} ; {number}" for claim, number, *_ in rows())
    return set(re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text)) | set(re.findall(r"\d+(?:\.\d+)? %", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_numbers_of_other_pages_are_in_the_table_of_claims(page: Path) -> None:
    assert [number for number in repeated_numbers(page) if number not in stated()] == []


def test_the_numbers_of_the_readme_are_found() -> None:
    found = repeated_numbers(ROOT / "README.md")
    assert {"57.99", "57.13", "79 %", "43.2", "45.8", "57.24", "60.1 %", "28.4", "27.9", "35.0", "7", "46"} <= set(
        found
    )


def test_the_tables_of_the_readme_are_those_of_their_claims() -> None:
    claims = {claim: number for claim, number, *_ in rows()}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:distilled pairs \(|as many random|the full data|in short ).*$", text, re.M)
    of_quickstart = [number for line in lines for number in numbers_in(line.replace("95 %", ""))]
    assert len(of_quickstart) == 11
    assert [one for one in of_quickstart if one not in claims["Quickstart, test: 100 distilled pairs"]] == []
    table = text.partition("| trained on | mean recall on test |")[2].partition("\n\n")[0]
    searched, free, bound = (
        "Flickr8k, test: 100 distilled pairs, searched for 46 minutes on one core",
        "Three sets of meta-model matching without experts, test",
        "The full-data bound, three models",
    )
    of_rows = [numbers_in(row.rpartition(" | ")[2]) for row in table.splitlines()[2:]]
    origins = [claims[searched], claims[free], *[claims["100 and 500 random pairs"]] * 2, claims[bound]]
    assert [len(numbers) for numbers in of_rows] == [3, 2, 1, 1, 1]
    for numbers, origin in zip(of_rows, origins, strict=True):
        assert [one for one in numbers if one not in origin] == []


def test_every_claim_says_how_where_and_when_it_was_measured() -> None:
    found = rows()
    assert len(found) >= 30
    for cells in found:
        assert len(cells) == len(COLUMNS) and all(cells), cells
        claim, number, command, evidence, _, date = cells
        assert re.search(r"\d", number), claim
        assert "`" in command or "](" in command or command.startswith(("the same", "not recorded")), claim
        assert "](#" in evidence or "`" in evidence or evidence == "not kept", claim
        assert re.fullmatch(r"2\d{3}-\d\d-\d\d.*|not recorded", date), claim


def test_numbers_of_claims_are_those_of_their_sections() -> None:
    """The numbers of a row whose evidence is sections of the page are in these sections."""
    text = RESULTS.read_text(encoding="utf-8")
    sections = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"): body
        for title, body in re.findall(r"^#+ (.*?)\n(.*?)(?=^#+ |\Z)", text, re.M | re.S)
    }
    checked = 0
    for claim, number, _, evidence, *_ in rows():
        anchors = re.findall(r"\]\(#([^)]*)\)", evidence)
        assert [anchor for anchor in anchors if anchor not in sections] == [], claim
        if not anchors:
            continue
        known = set(re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", " ".join(sections[anchor] for anchor in anchors)))
        decimals = re.findall(r"\d+\.\d+(?:e-?\d+)?", number)
        assert [one for one in decimals if one not in known] == [], claim
        checked += len(decimals)
    assert checked >= 60


def header_of(space: Path) -> str:
    """The comment at the top of a shipped study, as one paragraph."""
    lines = takewhile(lambda line: line.startswith("#"), space.read_text(encoding="utf-8").splitlines())
    return " ".join(" ".join(line.removeprefix("#") for line in lines).split())


def measured_numbers(header: str) -> list[str]:
    """The numbers of a header that are neither a paper's nor a setting's."""
    for pattern in [*NOT_MEASURED, r"--set \S+", r"\b(lr_lr|momentum) \d\S*"]:
        header = re.sub(pattern, "", header)
    return numbers_in(header)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.stem)
def test_measured_numbers_of_shipped_spaces_are_in_the_table_of_claims(space: Path) -> None:
    header = header_of(space)
    if "not run here" in header:
        assert re.search(r"arXiv \d{4}\.\d{5}", header), "its numbers are those of papers"
    else:
        assert [number for number in measured_numbers(header) if number not in stated()] == []


def test_the_numbers_of_shipped_spaces_are_found() -> None:
    found = {space.stem: set(measured_numbers(header_of(space))) for space in SPACES}
    assert found["quickstart"] == {"57.99", "52.29", "58.62", "79 %", "14.83", "2.9", "4.2"}
    assert found["flickr8k_cpu"] == {"28.4", "81 %", "46"}
    assert found["flickr8k_covariance_cpu"] == {"26.5", "76 %", "26", "26.2", "25.3", "94", "2"}
