"""A server's answer, checked before it is believed: the server may be older or newer than this client, or another one.

What a newer server says beyond what is known here is passed over; what an older one does not know yet gets the value
that stands for that.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, get_origin

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.metric import RAW_PART, PromptFacts
from diffvqa_rt.metrics.registry import DEFAULT, metric_named
from diffvqa_rt.results import ModelFacts, VideoScore, video_score
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.crops import Region

# Fields that servers before them do not send. Such a server deinterlaces nothing and reads no field order.
_DEFAULTS: Mapping[str, object] = {
    "color_primaries": "unspecified",
    "sample_aspect_ratio": None,
    "field_order": "unknown",
    "is_deinterlaced": False,
    "engines_sha256": "unspecified",
    "precision": "unspecified",
    "metric": DEFAULT,
    "is_temporal": True,
    "parts": (),
    "takes_prompt": False,
}


class AnswerError(ValueError):
    """An answer is not that of a server of ours; the message says what is wrong with it."""


def score_from_answer(
    tensors: Mapping[str, NDArray | None], *, source: str, seed: int, patch_maps: bool = False
) -> VideoScore:
    """The result in the ensemble's outputs by name, with patch maps where they are wanted.

    Raises AnswerError where they hold none.
    """
    score = _numbers(tensors, "score", 1)
    # Not every metric scores frames, or weighs them.
    curves = {name: _numbers(tensors, name, 2) for name in ("frame_scores", "frame_weights") if name in tensors}
    timestamps, stage_seconds = (_numbers(tensors, name, 1) for name in ("timestamps_seconds", "stage_seconds"))
    if any(curve.shape != (len(score), len(timestamps)) for curve in curves.values()):
        raise AnswerError(f"{' and '.join(curves)} are not of as many crops and frames as the rest")
    info, facts = _object(tensors, "video_info"), _object(tensors, "model")
    stages = _stages(facts)
    if len(stage_seconds) < len(stages):
        raise AnswerError(f"stage_seconds has {len(stage_seconds)} values, not those of {', '.join(stages)}")
    match facts.get("score_range"):
        case [int() | float() as low, int() | float() as high]:
            facts["score_range"] = (float(low), float(high))
    match facts.get("parts"):
        case [*names] if all(isinstance(name, str) for name in names):
            facts["parts"] = tuple(names)
    model_facts = ModelFacts(**_fields(ModelFacts, "model", facts))
    prompt = _prompt(info.get("prompt"))
    # Without a prompt there is no part that reads it.
    may_lack = model_facts.takes_prompt and prompt is None
    parts = {name: _numbers(tensors, name, 1) for name in model_facts.parts if name in tensors or not may_lack}
    raw = {name: _numbers(tensors, name, 1) for part in parts if (name := f"{RAW_PART}{part}") in tensors}
    parts |= raw
    if any(part.shape != score.shape for part in parts.values()):
        raise AnswerError(f"{' and '.join(parts)} are not of as many crops as the rest")
    maps = {name: _numbers(tensors, name, 5) for name in ("patch_scores", "patch_weights") if patch_maps}
    if any(values.shape[:2] != (len(score), len(timestamps)) for values in maps.values()):
        raise AnswerError("the patch maps are not of as many crops and frames as the rest")
    return video_score(
        {"score": score, **curves, **parts, **maps},
        source=source,
        seed=seed,
        timestamps_seconds=tuple(timestamps.tolist()),
        info=VideoInfo(**_fields(VideoInfo, "video_info", info)),
        stage_seconds=dict(zip(stages, stage_seconds.tolist(), strict=False)),
        facts=model_facts,
        crop_regions=_regions(info.get("crop_regions", [])),
        warnings=_warnings(info.get("warnings", [])),
        prompt=prompt,
    )


def _stages(facts: Mapping[str, Any]) -> list[str]:
    """The stages' names; a server that does not say them is from before there were several metrics."""
    stages = facts.get("stages", list(metric_named(DEFAULT).stages))
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        raise AnswerError(f"model has stages {stages!r}")
    return stages


def _tensor(tensors: Mapping[str, NDArray | None], name: str) -> NDArray:
    tensor = tensors.get(name)
    if tensor is None:
        raise AnswerError(f"it has no {name}")
    return tensor


def _numbers(tensors: Mapping[str, NDArray | None], name: str, rank: int) -> NDArray:
    tensor = _tensor(tensors, name)
    if tensor.ndim != rank or tensor.size == 0 or tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
        raise AnswerError(f"{name} is {tensor.dtype} {tensor.shape}, not finite numbers in {rank} dimensions")
    return tensor


def _object(tensors: Mapping[str, NDArray | None], name: str) -> dict[str, Any]:
    try:
        values = json.loads(_tensor(tensors, name).tobytes())
    except ValueError as error:  # UnicodeDecodeError, too
        if isinstance(error, AnswerError):
            raise
        raise AnswerError(f"{name} is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise AnswerError(f"{name} is a {type(values).__name__}, not an object")
    return values


def _fields(schema: type, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields; those that it does not know are left out."""
    known = {}
    for field in dataclasses.fields(schema):
        if field.name not in values and field.name not in _DEFAULTS:
            raise AnswerError(f"{name} has no {field.name}")
        value = known[field.name] = values.get(field.name, _DEFAULTS.get(field.name))
        if not _fits(value, field.type):
            raise AnswerError(f"{name} has {field.name} {value!r}")
    return known


def _fits(value: object, expected: Any) -> bool:
    """True where a value from JSON is of a field's type; a tuple's items have been looked at."""
    if get_origin(expected) is tuple:
        return isinstance(value, tuple)
    return isinstance(value, expected | int if expected in (float, float | None) else expected)


def _regions(values: object) -> tuple[Region, ...]:
    if not isinstance(values, list):
        raise AnswerError("video_info has crop_regions that are no list")
    regions = []
    for value in values:
        match value:
            case [int() | float() as left, int() | float() as top, int() | float() as right, int() | float() as bottom]:
                regions.append((left, top, right, bottom))
            case _:
                raise AnswerError(f"video_info has a crop region that is not four numbers: {value!r}")
    return tuple(regions)


def _prompt(values: object) -> PromptFacts | None:
    match values:
        case None:
            return None
        case {"text": str() as text, "tokens": int() as tokens, "is_truncated": bool() as is_truncated}:
            return PromptFacts(text=text, tokens=tokens, is_truncated=is_truncated)
    raise AnswerError(f"video_info has a prompt that is none: {values!r}")


def _warnings(values: object) -> tuple[ScoreWarning, ...]:
    """The warnings, of codes that are not known here too."""
    if not isinstance(values, list):
        raise AnswerError("video_info has warnings that are no list")
    warnings = []
    for value in values:
        code, message = (value.get("code"), value.get("message")) if isinstance(value, dict) else (None, None)
        if not isinstance(code, str) or not isinstance(message, str):
            raise AnswerError(f"video_info has a warning without a code and a message: {value!r}")
        warnings.append(ScoreWarning(code, message))
    return tuple(warnings)
