"""What scoring a video gives back: one schema in Python, JSON, CSV and gRPC."""

import dataclasses
import html
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import ScoreWarning, printable
from diffvqa_rt.metric import RAW_PART, PromptFacts
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.crops import Region

_NO_CURVE = np.empty((1, 0), np.float32)
# Between frames as close as this, what is lost or held is of as little weight as between those of a film.
_CLOSE_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A result's facts of the network and the runtime that made it; the fields are those of `VideoScore`."""

    model: str
    is_trained: bool
    weights_sha256: str
    engines_sha256: str
    precision: str
    backend: str
    views_by: str
    score_range: tuple[float, float]
    metric: str
    is_temporal: bool
    parts: tuple[str, ...]
    takes_prompt: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchMaps:
    """The scores of every patch and the weights that they have in the score.

    `scores` and `weights` are nested as `[crops][frames][parts][rows][columns]`; `parts` names those of the score that
    look at patches. A part's weights sum to 1 over the patches of a crop and a frame.
    """

    parts: tuple[str, ...]
    scores: Any
    weights: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoScore:
    """The score of a video, and what it takes to trust and repeat it.

    `score` lies on `score_range` (0 bad … 100 good by default). It is `raw_score`, Σ frame_weights · frame_scores,
    where that is in the range, else the range's end, and a warning says so. `model` says `untrained` where the number
    means nothing, `views_by` whose resampling made the views (`pillow` or `dali`); `engines_sha256` is of the hashes of
    the engines' files, `precision` what they compute in. `stage_seconds`: wall time per stage; in a batch, the share of
    the batch's time that a video's rows have; from a server, with the wait for each stage. A video is decoded, and its
    views are cut, while the engines are at the one before, and engines that read nothing of each other may run side by
    side: then the sum is more than the time that passed. `warnings` is empty where all is well. `metric` is the
    metric's name; `is_temporal` says whether it sees how a video moves. `parts` are the named parts of `raw_score`,
    means over the crops; a part that this score does not have is None. `raw_parts` are the same in the network's own
    units, where it has such. `prompt` is the text that the video was scored against, of `prompt_tokens` tokens,
    `is_prompt_truncated` if the network did not read them all; where a metric takes a prompt and was given none,
    `model` says so. `crop_regions` are the parts of the first frame, in its pixels, that the crops show: left, top,
    right, bottom. `unseen` is a sentence about what the sampled frames are too far apart to show, None where they are
    close. `patch_maps` is there where it was asked for.
    """

    source: str
    score: float
    score_range: tuple[float, float]
    crop_scores: tuple[float, ...]
    crop_spread: float
    frame_scores: tuple[float, ...]
    frame_weights: tuple[float, ...]
    timestamps_seconds: tuple[float, ...]
    seed: int
    video: VideoInfo
    stage_seconds: dict[str, float]
    model: str
    is_trained: bool
    weights_sha256: str
    backend: str
    views_by: str
    warnings: tuple[ScoreWarning, ...] = ()
    engines_sha256: str
    precision: str
    raw_score: float
    metric: str
    is_temporal: bool
    parts: dict[str, float | None]
    crop_regions: tuple[Region, ...]
    unseen: str | None = None
    patch_maps: PatchMaps | None = None
    raw_parts: dict[str, float] = dataclasses.field(default_factory=dict)
    prompt: str | None = None
    prompt_tokens: int | None = None
    is_prompt_truncated: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def _repr_html_(self) -> str:
        """A small table for notebooks, without styles or scripts."""
        low, high = self.score_range
        parts = {name: "–" if part is None else f"{part:.2f}" for name, part in self.parts.items()}
        rows = {
            "video": self.source,
            **({} if self.prompt is None else {"prompt": self.prompt}),
            "score": f"{self.score:.2f} of {low:g} to {high:g}",
            **(
                {"crops": f"{len(self.crop_scores)}, spread {self.crop_spread:.2f}"}
                if len(self.crop_scores) > 1
                else {}
            ),
            **parts,
            "model": f"{self.metric}, {self.model}",
            **{f"warning {warning.code}": warning.message for warning in self.warnings},
        }
        cells = ((html.escape(printable(text)) for text in row) for row in rows.items())
        return f"<table>{''.join(f'<tr><th>{name}</th><td>{text}</td></tr>' for name, text in cells)}</table>"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringFailure:
    """A video that could not be scored, and the sentence that says why."""

    source: str
    error: str

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def video_score(
    results: Mapping[str, NDArray[np.float32]],
    *,
    source: str,
    seed: int,
    timestamps_seconds: tuple[float, ...],
    info: VideoInfo,
    stage_seconds: dict[str, float],
    facts: ModelFacts,
    crop_regions: tuple[Region, ...],
    warnings: tuple[ScoreWarning, ...] = (),
    prompt: PromptFacts | None = None,
) -> VideoScore:
    """The result of one video from what `Metric.finish` gave, wherever that was.

    Args:
        results: by name; patch maps where they were asked for.
        source, seed, timestamps_seconds, info, stage_seconds, crop_regions, warnings: as in `VideoScore`.
        facts: of the model.
        prompt: that it was scored against.
    """
    crop_scores = results["score"].astype(np.float64)
    raw_score = float(crop_scores.mean())
    low, high = facts.score_range
    score = min(max(raw_score, low), high)
    if score != raw_score and not math.isnan(raw_score):
        sentence = f"the network's own score, {raw_score:.3f}, is outside of {low:g} to {high:g}; the score is the end"
        warnings = (*warnings, ScoreWarning("score-out-of-range", sentence))
    return VideoScore(
        source=source,
        score=score,
        score_range=facts.score_range,
        crop_scores=tuple(crop_scores.tolist()),
        crop_spread=float(crop_scores.max() - crop_scores.min()),
        frame_scores=tuple(results.get("frame_scores", _NO_CURVE).astype(np.float64).mean(axis=0).tolist()),
        # Weights are of whole frames, and so the same in every crop's row.
        frame_weights=tuple(results.get("frame_weights", _NO_CURVE)[0].astype(np.float64).tolist()),
        timestamps_seconds=timestamps_seconds,
        seed=seed,
        video=info,
        stage_seconds=stage_seconds,
        model=f"{facts.model}, without prompt" if facts.takes_prompt and prompt is None else facts.model,
        is_trained=facts.is_trained,
        weights_sha256=facts.weights_sha256,
        backend=facts.backend,
        views_by=facts.views_by,
        warnings=warnings,
        engines_sha256=facts.engines_sha256,
        precision=facts.precision,
        raw_score=raw_score,
        metric=facts.metric,
        is_temporal=facts.is_temporal,
        parts={name: _mean(results.get(name)) for name in facts.parts},
        crop_regions=crop_regions,
        unseen=_unseen(timestamps_seconds),
        patch_maps=_patch_maps(facts.parts, results),
        raw_parts={name: mean for name in facts.parts if (mean := _mean(results.get(f"{RAW_PART}{name}"))) is not None},
        prompt=prompt.text if prompt else None,
        prompt_tokens=prompt.tokens if prompt else None,
        is_prompt_truncated=prompt.is_truncated if prompt else None,
    )


def _unseen(timestamps_seconds: tuple[float, ...]) -> str | None:
    """A sentence about what sampled frames at these times do not show."""
    gap = max((later - earlier for earlier, later in itertools.pairwise(timestamps_seconds)), default=0.0)
    if gap <= _CLOSE_SECONDS:
        return None
    return (
        f"{len(set(timestamps_seconds))} frames are seen, up to {gap:.2f} s apart: shorter freezes, lost frames and "
        "judder do not show in the score"
    )


def _mean(values: NDArray | None) -> float | None:
    return None if values is None else float(values.astype(np.float64).mean())


def _patch_maps(parts: tuple[str, ...], results: Mapping[str, NDArray[np.float32]]) -> PatchMaps | None:
    if "patch_scores" not in results:
        return None
    scores, weights = results["patch_scores"], results["patch_weights"]
    return PatchMaps(parts=parts[: scores.shape[2]], scores=scores.tolist(), weights=weights.tolist())


def _fields(schema: type) -> list[str]:
    return [field.name for field in dataclasses.fields(schema)]


_NESTED = ("video", "stage_seconds", "parts", "raw_parts", "patch_maps")
# A column that is new goes to the end: readers count.
_NEW = (
    *("warnings", "color_primaries", "sample_aspect_ratio", "field_order", "is_deinterlaced"),
    *("engines_sha256", "precision", "raw_score", "metric", "is_temporal", "crop_regions"),
    *("prompt", "prompt_tokens", "is_prompt_truncated", "unseen"),
)


def csv_columns(stages: Iterable[str], parts: Iterable[str] = ()) -> tuple[str, ...]:
    """The whole of a `VideoScore` with these stages and parts on one level, and what a `ScoringFailure` adds.

    Patch maps and raw parts have no place there.
    """
    return (
        *(name for name in _fields(VideoScore) if name not in (*_NESTED, *_NEW)),
        *(name for name in _fields(VideoInfo) if name not in _NEW),
        *(f"{stage}_seconds" for stage in stages),
        "error",
        *_NEW,
        *(f"part_{name}" for name in parts),
    )


def csv_row(result: VideoScore | ScoringFailure, columns: Iterable[str]) -> dict[str, Any]:
    """A result under these columns; sequences are joined by spaces, what a result lacks is empty."""
    values = result.as_dict()
    stages = {f"{stage}_seconds": seconds for stage, seconds in values.get("stage_seconds", {}).items()}
    parts = {f"part_{name}": score for name, score in values.get("parts", {}).items()}
    warnings = "; ".join(f"{warning['code']}: {warning['message']}" for warning in values.get("warnings", ()))
    regions = tuple(side for region in values.get("crop_regions", ()) for side in region)
    nested = {"warnings": warnings, "crop_regions": regions}
    flat = {**values.get("video", {}), **stages, **parts, **values, **nested}
    return {name: _cell(flat.get(name)) for name in columns}


def _cell(value: object) -> object:
    if isinstance(value, tuple | list):
        return " ".join(repr(item) for item in value)
    return "" if value is None else value
