"""The agreement of frame curves with a synthetic set's labels by frame: what is wrong in part shows in that part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from diffvqa_rt.synthetic.clip_table import SyntheticClip
from diffvqa_rt.synthetic.distortions import LADDERS

# Of a curve's labels, on VMAF's scale: flatter ones have no order to follow.
_LEAST_RANGE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveAgreement:
    """Frame scores against labels by frame, over so many `clips` that are damaged in part of their length.

    `lower` is the share of them whose damaged frames score less than the others, by the means. `srcc` is the mean over
    them of the rank correlation of frame scores with frame labels. `most_weight` is the largest weight that any frame
    of a pristine clip has. The first two are None without such clips, the third without pristine ones.
    """

    clips: int
    lower: float | None
    srcc: float | None
    most_weight: float | None


def curve_agreement(
    clips: Sequence[SyntheticClip],
    frame_scores: Mapping[str, NDArray[np.floating]],
    frame_weights: Mapping[str, NDArray[np.floating]],
) -> CurveAgreement:
    """Measures curves, by `SyntheticClip.file`, each [N] of the clip's sampled frames."""
    lower, srcc = [], []
    for clip in clips:
        if clip.severity == 0 or LADDERS[clip.distortion].share == 1:
            continue
        first, last = next(step["frames"] for step in clip.steps if step["effect"] == "part")
        damaged = np.array([first <= frame < last for frame in clip.sampled_frames])
        labels, scores = np.array(clip.frame_labels[clip.label_kind]), frame_scores[clip.file]
        if damaged.any() and not damaged.all():
            lower.append(scores[damaged].mean() < scores[~damaged].mean())
            if np.ptp(labels) >= _LEAST_RANGE:
                # A constant curve follows nothing, and has no rank correlation.
                srcc.append(float(spearmanr(scores, labels).statistic) if np.ptp(scores) > 0 else 0.0)
    weights = [float(frame_weights[clip.file].max()) for clip in clips if clip.severity == 0]
    return CurveAgreement(
        clips=len(lower),
        lower=float(np.mean(lower)) if lower else None,
        srcc=float(np.mean(srcc)) if srcc else None,
        most_weight=max(weights, default=None),
    )
