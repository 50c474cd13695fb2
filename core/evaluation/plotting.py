"""How the project's plots look, and how they become files; the one place that loads matplotlib."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.files import write_together
from ..config.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that the colour-blind can tell from each other (Okabe and Ito, Color Universal Design).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#323232"

_PAGE = {
    "agg.path.chunksize": 10_000,  # points drawn at once; a hundred thousand are too many
    "axes.edgecolor": "#969696",
    "axes.grid": True,
    "axes.titlesize": 10.5,
    "font.size": 9.0,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
}


@contextlib.contextmanager
def drawing_style() -> Iterator[None]:
    """Context in which matplotlib draws with the project's settings, whatever the user's are.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib.style
    except ModuleNotFoundError as error:
        raise UserError(
            f'plots need matplotlib ({error}): pip install "cornerkit[plot]", or '
            "pip install matplotlib"
        ) from None
    with matplotlib.style.context(["default", _PAGE]):
        yield


def write_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG; a file that is there is replaced, and folders are made."""
    content = io.BytesIO()
    figure.savefig(content, format="png", backend="agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_together({path: lambda file: file.write(content.getvalue())})


def svg(figure: "Figure") -> str:
    """Writes a figure as SVG, the same in every call, with text that the reader's font draws."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cornerkit"}):
        figure.savefig(content, format="svg", backend="svg", metadata={"Date": None})
    return content.getvalue()
