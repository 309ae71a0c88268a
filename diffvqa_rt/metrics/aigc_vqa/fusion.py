"""From the branches' maps and numbers to the score (SPEC §6), in float64."""

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.metrics.aigc_vqa.config import PATCH_SIZE, AigcVqaConfig
from diffvqa_rt.specs import Arrays, TensorSpec

VISUAL = ("technical", "aesthetic")
"""The parts that need no prompt."""

ALIGNMENT = "alignment"


def result_specs(config: AigcVqaConfig, *, has_prompt: bool) -> tuple[TensorSpec, ...]:
    """The results that `fuse` gives of a video, a row a draw of the pieces."""
    rows, curve = ("videos",), ("videos", config.frames)
    maps = (*curve, len(VISUAL), config.map_side, config.map_side)
    parts = (*VISUAL, ALIGNMENT) if has_prompt else VISUAL
    return (
        TensorSpec("score", "float64", rows),
        TensorSpec("frame_scores", "float64", curve),
        TensorSpec("frame_weights", "float64", curve),
        *(TensorSpec(name, "float64", rows) for name in parts),
        *(TensorSpec(f"raw_{name}", "float64", rows) for name in parts),
        TensorSpec("patch_scores", "float64", maps),
        TensorSpec("patch_weights", "float64", maps),
    )


def fuse(config: AigcVqaConfig, outputs: Arrays) -> dict[str, NDArray]:
    """The results of one video.

    s = q_t + q_a + s_a (§3.4), calibrated; q_t and q_a are the means of their maps. A part is what a branch adds to the
    score of an average video, in points of the score. Without `alignment_score` the score is that of the two others, on
    a calibration of its own. The curve has each frame's share of the maps, so that its mean is the score.

    Args:
        outputs: `technical_map` [draws, D, g, g], `aesthetic_map` [1, D, g, g], and of a video with a prompt
            `alignment_score` [1].
    """
    calibration = config.calibration
    technical = np.asarray(outputs["technical_map"], np.float64)
    draws = len(technical)
    aesthetic = np.broadcast_to(np.asarray(outputs["aesthetic_map"], np.float64), technical.shape)
    maps = np.stack([technical, aesthetic], axis=2).repeat(PATCH_SIZE[0], axis=1)  # [draws, T, 2, g, g]
    raw = dict(zip(VISUAL, maps.mean(axis=(1, 3, 4)).T, strict=True))
    base, scale = calibration.base_visual, calibration.scale_visual
    if "alignment_score" in outputs:
        base, scale = calibration.base, calibration.scale
        raw[ALIGNMENT] = np.broadcast_to(np.asarray(outputs["alignment_score"], np.float64), (draws,))
    parts = {name: scale * (values - getattr(calibration, name)) for name, values in raw.items()}
    means = sum(raw[name] for name in VISUAL)
    score = base + np.sum(list(parts.values()), axis=0)
    by_frame = maps.mean(axis=(3, 4)).sum(axis=2) - means[:, None]
    return {
        "score": score,
        "frame_scores": score[:, None] + scale * by_frame,
        "frame_weights": np.full(by_frame.shape, 1 / config.frames),
        **{name: np.ascontiguousarray(values) for name, values in parts.items()},
        **{f"raw_{name}": np.ascontiguousarray(values) for name, values in raw.items()},
        "patch_scores": maps,
        "patch_weights": np.full_like(maps, 1 / config.map_side**2),
    }
