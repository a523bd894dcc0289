"""Drawings as inline SVG with the page's colours and fonts, and with tooltips."""

import html
import re
from io import StringIO

import matplotlib

from rayvldd.reports.page.drawings import BEST, FAILED, FINISHED, GRID, INK, SCALE, STOPPED, Drawing

VARIABLES = {
    BEST: "--best",
    FINISHED: "--finished",
    STOPPED: "--stopped",
    FAILED: "--failed",
    INK: "--ink",
    GRID: "--grid",
    **{colour: f"--scale-{place}" for place, colour in enumerate(SCALE)},
}
"""Colour of a drawing -> CSS variable of the page, which differs in dark mode."""

_STYLE = re.compile(r'style="[^"]*"')
_ID = re.compile(r'(\bid="|url\(#|href="#)')
_MARK = re.compile(r'<g id="mark(\d+)">')


def to_svg(drawing: Drawing, prefix: str, study: str = "") -> str:
    """Convert a drawing to an ``<svg>`` element of a page with several drawings.

    Args:
        drawing: The drawing; its description becomes that of the element.
        prefix: Prefix of every id, which makes ids unique within the page.
        study: Name of the study that the marks' trials belong to.
    """
    text = StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": prefix, "text.parse_math": False, "path.simplify": False}
    ):
        drawing.figure.savefig(text, format="svg", dpi=72, transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _STYLE.sub(_with_variables, svg)
    svg = _MARK.sub(lambda found: _mark(drawing, int(found[1]), study), svg)
    svg = _ID.sub(rf"\g<1>{prefix}-", svg)
    width, height = (72 * inches for inches in drawing.figure.get_size_inches())
    label = html.escape(f"{drawing.title}. {drawing.words}", quote=True)
    stop = ' tabindex="0"' if drawing.marks else ""
    head = f'<svg role="img"{stop} aria-label="{label}" viewBox="0 0 {width:g} {height:g}" xmlns:xlink="http://www.w3.org/1999/xlink">'
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
