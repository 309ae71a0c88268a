"""Reconstructions as a picture, laid out like the paper's figure 4, with the frozen UNet alone beside."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm

from diffvqa_rt.evaluation.figures import new_figure, save_figure
from diffvqa_rt.training.diffvqa.diagnosis.reconstruction import Attempt, Reconstruction

_TITLES = (
    "input view",
    "VAE alone:\nz0 decoded",
    "with the Controller:\nẑ0 decoded",
    "with the Controller:\n|ẑ0 − z0|",
    "frozen UNet alone:\nẑ0 decoded",
    "frozen UNet alone:\n|ẑ0 − z0|",
)
_NAME_LENGTH = 27
_ERROR_COLORS = "inferno"


def draw_reconstructions(rows: Sequence[Reconstruction], path: Path) -> None:
    """Writes a PNG with a row for each view: PSNR below each picture, one scale of errors for all rows."""
    figure = new_figure(2 * len(_TITLES) + 0.8, 2.18 * len(rows) + 0.8)
    grid = figure.subplots(len(rows), len(_TITLES), squeeze=False)
    errors = np.stack([attempt.error for row in rows for attempt in (row.adapted, row.unadapted)])
    # The square root's scale: an adapted network's small errors and a frozen one's large ones are both to be seen.
    # A few cells may stand out so far that they would leave all others black.
    norm = PowerNorm(0.5, vmin=0, vmax=max(float(np.quantile(errors, 0.995)), 1e-6))
    for axes, title in zip(grid[0], _TITLES, strict=True):
        axes.set_title(title, fontsize=10)
    for row, line in zip(rows, grid, strict=True):
        for axes in line:
            axes.set(xticks=[], yticks=[])
        line[0].imshow(row.frame)
        line[0].set_ylabel(f"{_shortened(row.name)}\n{row.view} view", fontsize=8, parse_math=False)
        line[1].imshow(row.round_trip)
        line[1].set_xlabel(_decibels(row.round_trip_psnr_db), fontsize=9)
        _show_attempt(row.adapted, line[2], line[3], norm)
        _show_attempt(row.unadapted, line[4], line[5], norm)
    bar = figure.colorbar(
        ScalarMappable(norm, _ERROR_COLORS),
        ax=grid,
        location="right",
        shrink=min(1.0, 3 / len(rows)),
        aspect=30,
        pad=0.01,
        extend="max",
    )
    bar.set_label("|ẑ0 − z0|, mean over channels (square-root scale)", fontsize=9)
    figure.supxlabel("PSNR: of decoded pictures to the input, of ẑ0 to z0 by the range of z0", fontsize=9)
    save_figure(figure, path)


def _show_attempt(attempt: Attempt, picture: Axes, error: Axes, norm: PowerNorm) -> None:
    picture.imshow(attempt.picture)
    picture.set_xlabel(_decibels(attempt.picture_psnr_db), fontsize=9)
    # Nearest: a cell of the latent stays a cell.
    error.imshow(attempt.error, norm=norm, cmap=_ERROR_COLORS, interpolation="nearest")
    error.set_xlabel(f"latent {_decibels(attempt.latent_psnr_db)}", fontsize=9)


def _decibels(value: float) -> str:
    return f"{value:.1f} dB"


def _shortened(name: str) -> str:
    """The end of it: of a path, what tells one from the next."""
    return name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}"
