"""matplotlib's SVG, made to live inside a page: its colours are the page's, its texts are text."""

import io
import re
from collections.abc import Callable
from html import escape
from itertools import count
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins that matplotlib writes as they are, and the page's names for them.
INK, SOFT, LINE, GRID = "#010203", "#010204", "#010205", "#010206"
SERIES = tuple(f"#01030{i}" for i in range(8))
_NAMES = {INK: "ink", SOFT: "soft", LINE: "line", GRID: "grid"}
_NAMES |= {colour: f"c{i}" for i, colour in enumerate(SERIES)}

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may have a $
    "svg.hashsalt": "recsys",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}
_numbers = count()


def draw(
    describe: str,
    fill: Callable[..., None],
    *,
    size: tuple[float, float] = (3.6, 2.5),
    rows: int = 1,
    left: float = 0.5,
    bottom: float = 0.42,
) -> str:
    """One drawing as an SVG element; `describe` is read to those who do not see it.

    `fill` gets the axes (a list of them, if there are several `rows`). `size` is in inches, as are
    the margins `left` and `bottom`; the element is as wide as its place and keeps its proportions.
    """
    with mpl.rc_context(_SETTINGS):
        # Margins by hand: matplotlib's own layouts take longer than everything else.
        figure = Figure(figsize=size)
        width, height = size
        figure.subplots_adjust(
            left / width, bottom / height, 1 - 0.2 / width, 1 - 0.28 / height, hspace=0.42
        )
        if rows == 1:
            fill(figure.add_subplot())
        else:
            fill(list(figure.subplots(rows, 1, height_ratios=[2.2] + [1] * (rows - 1))))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), describe)


def _inline(svg: str, describe: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    for colour, name in _NAMES.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Ids are unique in a page, not in a drawing.
    prefix = f"d{next(_numbers)}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    inside = svg[svg.index(">") + 1 :]
    return (
        f'<svg role="img" aria-label="{escape(describe)}" viewBox="{box[1]}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{inside}'
    )


def no_numbers(axis: Axes) -> None:
    """Hides the numbers of a y axis whose heights say enough."""
    axis.set_yticks([])
