"""Engines against the float32 torch reference, on real sources (DESIGN: the parity report)."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from diffvqa_export.export_stage import ExportStage
from diffvqa_export.reference import Arrays, Reference, some_frames
from diffvqa_rt.chain import STEP, play
from diffvqa_rt.engines.manifest import OutputParity, ParityReport
from diffvqa_rt.errors import ParityError
from diffvqa_rt.metric import Config, Metric
from diffvqa_rt.specs import Engine, Precision

# Of the score's range: what a user may see between two runtimes.
SCORE_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 2e-2}


def measure_parity(
    engines: Mapping[str, Engine],
    reference: Reference,
    metric: Metric,
    config: Config,
    stages: Mapping[str, ExportStage],
    precision: Precision,
    clip: str,
    *,
    frames: int | None = None,
    is_same_alone: bool = True,
) -> ParityReport:
    """Every engine on the reference's own inputs, each of the K steps alone, and the score of the whole chain.

    Args:
        engines: what is measured.
        reference: of the same network and weights, on the source that the report calls `clip`.
        metric, config: the network's.
        stages: the tolerances.
        precision: what the engines compute in.
        clip: a name for the report.
        frames: how many frames (every view counted) the per-frame engines are compared on alone; all by default. The
            chain runs on all of them in any case.
        is_same_alone: whether a video has to come out bit for bit as in a batch when it is alone. A GPU's libraries
            take other kernels for another batch size; in the slots of one batch it has to be the same everywhere.
    """
    worst: dict[tuple[str, str], OutputParity] = {}
    last_calls: dict[str, tuple[Arrays, Arrays]] = {}
    for name, inputs, expected in reference.calls():
        if frames is not None and engines[name].spec.is_per_frame:
            inputs, expected = some_frames(inputs, frames), some_frames(expected, frames)
        actual = {output: np.asarray(values) for output, values in engines[name](inputs, list(expected)).items()}
        for output, values in expected.items():
            found = _compare(stages[name], output, actual[output], values, precision)
            worst[name, output] = max(worst.get((name, output), found), found, key=lambda parity: parity.relative_error)
        last_calls[name] = (inputs, actual)
    low, high = config.score_range
    seen = reference.frames(engines)
    outputs = play(metric.chain(config), engines, reference.given)
    return ParityReport(
        clip=clip,
        frames=seen if frames is None else min(seen, frames),
        outputs=tuple(worst.values()),
        row_differences={
            name: _row_difference(engines[name], inputs, actual if is_same_alone else None)
            for name, (inputs, actual) in last_calls.items()
            if engines[name].max_videos != 1
        },
        score=float(metric.finish(config, outputs, reference.frame_count)["score"].mean()),
        reference_score=reference.score,
        score_tolerance=SCORE_TOLERANCE[precision] * (high - low),
    )


def worst_of(reports: Iterable[ParityReport]) -> ParityReport:
    """One report for several sources: of each number the worst, and the frames of all."""
    first, *others = reports = list(reports)
    if not others:
        return first
    outputs = zip(*(report.outputs for report in reports), strict=True)
    by_score = max(reports, key=lambda report: _nan_is_worst(report.score_difference))
    return dataclasses.replace(
        by_score,
        clip=", ".join(report.clip for report in reports),
        frames=sum(report.frames for report in reports),
        outputs=tuple(max(same, key=lambda output: output.relative_error) for same in outputs),
        row_differences={
            engine: max((report.row_differences[engine] for report in reports), key=_nan_is_worst)
            for engine in first.row_differences
        },
        reference_scores={report.clip: report.reference_score for report in reports},
    )


def refuse_dead_network(scores: Mapping[str, float], config: Config) -> None:
    """Raises ParityError where two sources have one score, as far as two runtimes can tell: nothing could be compared.

    Args:
        scores: of the reference, by source.
    """
    low, high = config.score_range
    for (one, score), (other, other_score) in itertools.combinations(scores.items(), 2):
        if not abs(score - other_score) > SCORE_TOLERANCE["fp32"] * (high - low):
            raise ParityError(
                f"{config.name} gives {one} and {other} one score ({score:.4f} and {other_score:.4f}), so its engines "
                "cannot be judged: look at its weights, or take another --clip"
            )


def _nan_is_worst(difference: float) -> float:
    return math.inf if math.isnan(difference) else difference


def _compare(stage: ExportStage, output: str, actual: NDArray, expected: NDArray, precision: Precision) -> OutputParity:
    if actual.shape != expected.shape:
        raise ParityError(f"{stage.name}'s {output} is {actual.shape}, and torch's is {expected.shape}")
    difference = actual.astype(np.float64) - expected
    not_finite = int(actual.size - np.isfinite(actual).sum())
    if not_finite or not np.isfinite(expected).all():
        largest = relative = float("inf")  # so that no bar passes a NaN
    else:
        largest = float(np.abs(difference).max())
        least = max(stage.error_floor * math.sqrt(expected.size), float(np.finfo(np.float32).tiny))
        relative = float(np.linalg.norm(difference)) / max(float(np.linalg.norm(expected)), least)
    return OutputParity(
        engine=stage.name,
        output=output,
        max_error=largest,
        relative_error=relative,
        not_finite=not_finite,
        tolerance=stage.tolerances[precision].relative,
    )


def _row_difference(engine: Engine, inputs: Arrays, alone: Arrays | None) -> float:
    """max|Δ| between the same video's outputs in the two slots of a batch, and of it alone where that is given."""
    twice = {name: array if name == STEP else np.concatenate([array, array]) for name, array in inputs.items()}
    names = [output.name for output in engine.spec.outputs]
    together = {name: np.asarray(values) for name, values in engine(twice, names).items()}
    differences = [np.abs(values[1] - values[0]).max() for values in together.values()]
    if alone is not None:
        differences += [np.abs(together[name][slot] - alone[name][0]).max() for name in names for slot in range(2)]
    return float(np.max(differences))  # NumPy's, which a NaN does not pass
