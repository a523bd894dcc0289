"""The look of tables on the terminal."""

from typing import Any

from rich.console import RenderableType
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from rayvldd.printable import printable


class PlainTable(Table):
    """A table in the look of all tables, without lines and with the title at the left; its text is shown as it is.

    Names, captions and paths are neither markup of Rich nor commands to the terminal.
    """

    def __init__(self, title: str) -> None:
        super().__init__(
            title=_as_text(title), title_justify="left", title_style="", box=None, header_style="bold", pad_edge=False
        )
        self.padding = (0, 1, 0, 0)

    def add_column(self, header: RenderableType = "", *args: Any, **options: Any) -> None:
        """Add a column, with the options of Rich."""
        super().add_column(_as_text(header), *args, **options)

    def add_row(self, *cells: RenderableType | None, style: StyleType | None = None, end_section: bool = False) -> None:
        """Add a row of texts."""
        super().add_row(*map(_as_text, cells), style=style, end_section=end_section)


def _as_text(cell: Any) -> Any:
    """A text without commands to the terminal; other cells as they are."""
    if isinstance(cell, Text):
        return Text(printable(cell.plain), style=cell.style)
    return Text(printable(cell)) if isinstance(cell, str) else cell
