"""A picture of an evaluation: each video's score and opinion, and the fitted curve."""

from pathlib import Path

import numpy as np

from diffvqa_rt.evaluation.evaluate import Evaluation
from diffvqa_rt.evaluation.figures import new_figure, save_figure


def draw_scatter(evaluation: Evaluation, path: Path) -> None:
    """Writes a PNG of 1200×1050 pixels: scores across, MOS upwards, the curve that fitted PLCC and RMSE use.

    Of an evaluation with a model for each random split it shows the first split's test videos.
    """
    figure = new_figure(8, 7)
    axes = figure.add_subplot()
    scores, mos = np.array(evaluation.scores), np.array(evaluation.mos)
    size = float(np.clip(4000 / len(scores), 4, 30))
    axes.scatter(scores, mos, s=size, alpha=0.5, linewidths=0, color="tab:blue", label=f"{len(scores)} videos")
    agreement = evaluation.pictured
    if agreement.curve:
        x = np.linspace(scores.min(), scores.max(), 400)
        label = "4-parameter logistic" if agreement.curve.kind == "logistic" else "straight line (no logistic fits)"
        axes.plot(x, agreement.curve(x), color="tab:red", linewidth=2, label=label)
    metrics = agreement.metrics
    part = ", split 1" if evaluation.is_retrained else ""
    axes.set_title(
        f"{evaluation.model} on {evaluation.test_set}{part}\n"
        f"SRCC {metrics['srcc'].value:.3f}   PLCC {metrics['plcc'].value:.3f}   "
        f"fitted PLCC {metrics['plcc_fitted'].value:.3f}   RMSE {metrics['rmse'].value:.3g}",
        parse_math=False,
    )
    axes.set_xlabel("score")
    axes.set_ylabel("MOS")
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    save_figure(figure, path)
