"""Figures that become PNG files, without pyplot, which would keep them and choose a window system."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's, which colour-blind readers can tell apart, without black and with a darker yellow for white paper.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#c9b400", "#7f7f7f")


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """An empty figure at 150 pixels an inch, whose layout leaves room for every label."""
    figure = Figure(figsize=(width_inches, height_inches), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG that does not say which matplotlib made it."""
    figure.savefig(path, format="png", metadata={"Software": None})
