"""Engines against the float32 torch reference, on a real clip (DESIGN: the parity report)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffvqa_export.reference import Arrays, Reference
from diffvqa_export.stage import ExportStage
from diffvqa_rt.config import DiffVQAConfig
from diffvqa_rt.engines import Engine
from diffvqa_rt.engines.manifest import OutputParity, ParityReport
from diffvqa_rt.scoring import play
from diffvqa_rt.specs import Precision

Views = NDArray[np.float32]

# Of the score's range: what a user may see between two runtimes.
SCORE_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 2e-2}


def measure_parity(
    engines: Mapping[str, Engine],
    reference: Reference,
    config: DiffVQAConfig,
    stages: Mapping[str, ExportStage],
    precision: Precision,
    clip: str,
    *,
    frames: int | None = None,
) -> ParityReport:
    """Every engine on the reference's own inputs, each of the K steps alone, and the score of the whole chain.

    Args:
        engines: what is measured.
        reference: of the same network and weights, on the real video that the report calls `clip`.
        config: the network's.
        stages: the tolerances.
        precision: what the engines compute in.
        clip: a name for the report.
        frames: how many frames (of both views) the per-frame engines are compared on alone; all by default. The chain
            runs on all of them in any case.
    """
    worst: dict[tuple[str, str], OutputParity] = {}
    last_calls: dict[str, tuple[Arrays, Arrays]] = {}
    for name, inputs, expected in reference.calls(slice(frames)):
        actual = {output: np.asarray(values) for output, values in engines[name](inputs, list(expected)).items()}
        tolerance = stages[name].tolerances[precision].relative
        for output, values in expected.items():
            found = _compare(name, output, actual[output], values, tolerance)
            worst[name, output] = max(worst.get((name, output), found), found, key=lambda parity: parity.relative_error)
        last_calls[name] = (inputs, actual)
    low, high = config.score_range
    return ParityReport(
        clip=clip,
        outputs=tuple(worst.values()),
        row_differences={
            name: _row_difference(engines[name], *call)
            for name, call in last_calls.items()
            if engines[name].max_videos != 1
        },
        score=float(np.asarray(play(engines, reference.views, config.sampler.steps)["score"])[0]),
        reference_score=reference.score,
        score_tolerance=SCORE_TOLERANCE[precision] * (high - low),
    )


def _compare(engine: str, output: str, actual: NDArray, expected: NDArray, tolerance: float) -> OutputParity:
    difference = actual.astype(np.float64) - expected
    not_finite = int(actual.size - np.isfinite(actual).sum())
    if not_finite or not np.isfinite(expected).all():
        largest = relative = float("inf")  # so that no bar passes a NaN
    else:
        largest = float(np.abs(difference).max())
        relative = float(np.linalg.norm(difference) / max(np.linalg.norm(expected), np.finfo(np.float32).tiny))
    return OutputParity(
        engine=engine,
        output=output,
        max_error=largest,
        relative_error=relative,
        not_finite=not_finite,
        tolerance=tolerance,
    )


def _row_difference(engine: Engine, inputs: Arrays, alone: Arrays) -> float:
    """max|Δ| between a video's outputs alone and in either slot of a batch of two."""
    twice = {name: np.concatenate([array, array]) if array.ndim else array for name, array in inputs.items()}
    together: Mapping[str, ArrayLike] = engine(twice, list(alone))
    return max(
        float(np.abs(np.asarray(together[name])[slot] - values[0]).max())
        for name, values in alone.items()
        for slot in range(2)
    )
