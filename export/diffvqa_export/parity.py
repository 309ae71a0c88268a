"""Engines against the float32 torch reference, on a real clip (DESIGN: the parity report)."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from diffvqa_export.stage import ExportStage
from diffvqa_rt.config import DiffVQAConfig
from diffvqa_rt.engines import Engine
from diffvqa_rt.engines.manifest import OutputParity, ParityReport
from diffvqa_rt.scoring import play
from diffvqa_rt.specs import FEATURES

Arrays = dict[str, NDArray]
Views = NDArray[np.float32]

# Of the score's range: what a user may see between two runtimes.
SCORE_TOLERANCE = 1e-4


def measure_parity(
    engines: Mapping[str, Engine],
    reference: Mapping[str, Engine],
    config: DiffVQAConfig,
    stages: Mapping[str, ExportStage],
    views: Views,
    clip: str,
) -> ParityReport:
    """Every engine on the reference's own inputs, each of the K steps alone, and the score of the whole chain.

    `views` [1, 2N, 3, S, S] are those of the real video that the report calls `clip`.
    """
    worst: dict[tuple[str, str], tuple[float, float]] = {}
    last: Arrays = {}
    for name, inputs, expected in _reference_calls(reference, views, config.sampler.steps):
        actual, last = engines[name](inputs), expected
        for output, values in expected.items():
            error = _error(actual[output], values)
            worst[name, output] = max(worst.get((name, output), (0.0, 0.0)), error, key=lambda e: e[1])
    low, high = config.score_range
    return ParityReport(
        clip=clip,
        outputs=tuple(
            OutputParity(
                engine=name,
                output=output,
                max_error=largest,
                relative_error=relative,
                tolerance=stages[name].tolerance.relative,
            )
            for (name, output), (largest, relative) in worst.items()
        ),
        score=float(play(engines, views, config.sampler.steps)["score"][0]),
        reference_score=float(last["score"][0]),
        score_tolerance=SCORE_TOLERANCE * (high - low),
    )


def _reference_calls(reference: Mapping[str, Engine], views: Views, steps: int) -> Iterator[tuple[str, Arrays, Arrays]]:
    """(engine, inputs, outputs) of every call that the reference makes on its way to the score."""
    inputs: Arrays = {"frames": views}
    encoded = reference["vae_encoder"](inputs)
    yield "vae_encoder", inputs, encoded
    z0, z = encoded["z0"], np.zeros_like(encoded["z0"])
    outputs: Arrays = {}
    for step in range(steps):
        inputs = {"z": z, "z0": z0, "step": np.array(step)}
        outputs = reference["unet_controller"](inputs)
        yield "unet_controller", inputs, outputs
        z = outputs["z_next"]
    inputs = {"z0_hat": z, **{name: outputs[name] for name in FEATURES}, "frames": views}
    yield "head", inputs, reference["head"](inputs)


def _error(actual: NDArray, expected: NDArray) -> tuple[float, float]:
    """(max|Δ|, max|Δ| / max|expected|); infinite where a value is not finite, so that no bar passes a NaN."""
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("inf"), float("inf")
    largest = float(np.abs(actual.astype(np.float64) - expected).max())
    scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    return largest, largest / scale
