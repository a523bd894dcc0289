"""A drawing as SVG inside a page: it takes the page's colours and fonts, and its marks can be pointed at."""

import html
import re
from io import StringIO

import matplotlib

from rayvldd.reports.page.drawings import BEST, FAILED, FINISHED, GRID, INK, STOPPED, Drawing

VARIABLES = {
    BEST: "--best",
    FINISHED: "--finished",
    STOPPED: "--stopped",
    FAILED: "--failed",
    INK: "--ink",
    GRID: "--grid",
}
"""Colour of a drawing to the page's variable, which has another value in the dark."""

_STYLE = re.compile(r'style="[^"]*"')
_ID = re.compile(r'(\bid="|url\(#|href="#)')
_MARK = re.compile(r'<g id="mark(\d+)">')


def to_svg(drawing: Drawing, prefix: str, study: str = "") -> str:
    """The drawing as an ``<svg>`` element that may stand in a page beside others.

    Args:
        drawing: What to write; its words become the element's description.
        prefix: Put before every id, of which a page may have each but once.
        study: Name of the study that the marks' trials belong to.
    """
    text = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix, "text.parse_math": False}):
        drawing.figure.savefig(text, format="svg", dpi=72, transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _STYLE.sub(_with_variables, svg)
    svg = _MARK.sub(lambda found: _mark(drawing, int(found[1]), study), svg)
    svg = _ID.sub(rf"\g<1>{prefix}-", svg)
    width, height = (72 * inches for inches in drawing.figure.get_size_inches())
    label = html.escape(f"{drawing.title}. {drawing.words}", quote=True)
    head = f'<svg role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :]


def _with_variables(style: re.Match[str]) -> str:
    text = style[0]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def _mark(drawing: Drawing, number: int, study: str) -> str:
    mark = drawing.marks[number]
    trial = f' data-trial="{html.escape(f"{study}/{mark.trial_id}", quote=True)}"' if mark.trial_id else ""
    return f'<g id="mark{number}" class="mark"{trial}><title>{html.escape(mark.words)}</title>'
