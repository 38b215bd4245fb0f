"""Writing a figure, without a display."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from jaxrobust.files import PathLike, write_bytes_atomic


def save_figure(figure: Figure, path: PathLike, *, dpi: int = 150) -> Path:
    """Writes a figure atomically, in the format of the path's suffix (png, pdf, svg).

    Args:
      figure: the figure to write.
      path: where to; without a suffix the format is png. Missing folders are made.
      dpi: pixels per inch.

    Returns:
      The path of the file.

    Raises:
      ValueError: a suffix Matplotlib does not know.
      OSError: the file cannot be written.
    """
    data = io.BytesIO()
    figure.savefig(data, format=Path(path).suffix.lstrip(".") or "png", dpi=dpi)
    return write_bytes_atomic(path, data.getvalue())
