"""Pictures of a set while it is distilled: its first images at a few outer steps, for trackers that show them by step.

A trial's process draws them, because it alone has the set at each evaluation.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.distillation.thumbnail import thumbnail
from rayvldd.storage.atomic import file_written_whole

MOST_PICTURES = 5
"""Maximum number of pictures of one distillation."""
_COLUMNS, _ROWS = 5, 3
"""Images in a picture, the first ones of the set."""
_SIDE, _GAP = 96, 2
"""Side of a shown image, and the space around it, in pixels."""


def pictured_steps(settings: DistillationSettings) -> list[int]:
    """Outer steps at which the set is drawn: those of the first and the last evaluation, and others evenly between."""
    last, every = settings.outer_steps, settings.evaluate_every
    evaluated = sorted({*range(0, last, every), last})
    count = min(MOST_PICTURES, len(evaluated))
    return [evaluated[index] for index in np.linspace(0, len(evaluated) - 1, count).round().astype(int)]


def draw_images(images: Float[Tensor, "pair 3 height width"], file: Path) -> None:
    """Write the first images as a grid, as PNG and atomically; pixels are clipped to black and white.

    Args:
        images: RGB on a scale from 0 to 1.
        file: Its folder is created if missing.

    Raises:
        OSError: if the file cannot be written.
    """
    cells = [thumbnail(image.numpy(), _SIDE) for image in images[: _COLUMNS * _ROWS].detach().cpu()]
    columns, rows = min(_COLUMNS, len(cells)), -(-len(cells) // _COLUMNS)
    step = _SIDE + _GAP
    picture = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP), "white")
    for number, cell in enumerate(cells):
        row, column = divmod(number, _COLUMNS)
        picture.paste(cell, (_GAP + column * step, _GAP + row * step))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file_written_whole(file) as part:
        picture.save(part, "PNG")
