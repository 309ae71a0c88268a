"""The agreement of scores with a synthetic set's labels and ladders: with VMAF, and with rising severity."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from diffvqa_rt.evaluation.correlation import MIN_VIDEOS, measure_agreement
from diffvqa_rt.synthetic.clip_table import SyntheticClip, read_manifest
from diffvqa_rt.synthetic.distortions import CODECS_AND_SCALINGS, LADDERS
from diffvqa_rt.synthetic.labelled import LabelledVideo

_LEAST_FOR_CORRELATION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderAgreement:
    """Scores against one type of distortion, or several: how many clips and ladders, and how scores follow them.

    `srcc` and `plcc` are with VMAF over the distorted clips, None where they have no such label. `srcc_interval` is the
    bootstrap 95 % interval over contents, of which clips are no independent sample; None where they are too few.
    `falling` is the share of ladders whose scores fall at every step from severity 1 to 5, `falling_pairs` that of all
    pairs within ladders that are in order, the pristine clip among them.
    """

    name: str
    label: str
    clips: int
    ladders: int
    srcc: float | None
    srcc_interval: tuple[float, float] | None
    plcc: float | None
    falling: float
    falling_pairs: float


def agreement_by_type(clips: Sequence[SyntheticClip], scores: Mapping[str, float]) -> list[LadderAgreement]:
    """One row a type, then `codecs and scalings`, then `all`.

    Args:
        clips: of a manifest, or one split of it, with every scene's pristine clip.
        scores: by `SyntheticClip.file`.
    """
    names = [name for name in LADDERS if any(clip.distortion == name for clip in clips)]
    rows = [_agreement(name, LADDERS[name].label, [name], clips, scores) for name in names]
    field = [name for name in names if name in CODECS_AND_SCALINGS]
    if field:
        rows.append(_agreement("codecs and scalings", "vmaf_v1", field, clips, scores))
    return [*rows, _agreement("all", "", names, clips, scores)]


def agreement_by_size(clips: Sequence[SyntheticClip], scores: Mapping[str, float]) -> list[LadderAgreement]:
    """One row for codecs and scalings at each number of lines, of a picture's shorter side; args as above."""
    rows = []
    for lines in sorted({min(clip.width, clip.height) for clip in clips}):
        of_size = [clip for clip in clips if min(clip.width, clip.height) == lines]
        if any(clip.distortion in CODECS_AND_SCALINGS for clip in of_size):
            rows.append(_agreement(f"of {lines} lines", "vmaf_v1", CODECS_AND_SCALINGS, of_size, scores))
    return rows


def agreement_of(videos: Sequence[LabelledVideo], scores: NDArray[np.float64], folder: Path) -> list[LadderAgreement]:
    """`agreement_by_type` for videos of the synthetic set in `folder`, scores in their order."""
    by_file = dict(zip((video.name for video in videos), scores.tolist(), strict=True))
    return agreement_by_type([clip for clip in read_manifest(folder) if clip.file in by_file], by_file)


def _agreement(
    name: str, label: str, types: Sequence[str], clips: Sequence[SyntheticClip], scores: Mapping[str, float]
) -> LadderAgreement:
    distorted = [clip for clip in clips if clip.distortion in types]
    pristine = {clip.scene: scores[clip.file] for clip in clips if clip.severity == 0}
    ladders: dict[tuple[str, str], dict[int, float]] = {}
    for clip in distorted:
        ladder = ladders.setdefault((clip.scene, clip.distortion), {0: pristine[clip.scene]})
        ladder[clip.severity] = scores[clip.file]
    steps = [np.diff([ladder[severity] for severity in sorted(ladder)]) for ladder in ladders.values()]
    pairs = [
        ladder[better] > ladder[worse]
        for ladder in ladders.values()
        for better, worse in itertools.combinations(sorted(ladder), 2)
    ]
    labelled = [clip for clip in distorted if clip.label_kind == "vmaf_v1"]
    ours = np.array([scores[clip.file] for clip in labelled])
    vmaf = np.array([clip.label for clip in labelled], float)
    is_enough = len(labelled) >= _LEAST_FOR_CORRELATION
    return LadderAgreement(
        name=name,
        label=label,
        clips=len(distorted),
        ladders=len(ladders),
        srcc=float(spearmanr(ours, vmaf).statistic) if is_enough else None,
        srcc_interval=_interval(ours, vmaf, [clip.content for clip in labelled]),
        plcc=float(pearsonr(ours, vmaf).statistic) if is_enough else None,
        falling=float(np.mean([bool((step[1:] < 0).all()) for step in steps])),
        falling_pairs=float(np.mean(pairs)),
    )


def _interval(
    ours: NDArray[np.float64], vmaf: NDArray[np.float64], contents: Sequence[str]
) -> tuple[float, float] | None:
    if len(set(contents)) < MIN_VIDEOS:
        return None
    srcc = measure_agreement(ours, vmaf, contents=contents).metrics["srcc"]
    return (srcc.low, srcc.high)


def agreement_markdown(rows: Sequence[LadderAgreement]) -> str:
    """The rows as a Markdown table, the interval beside its SRCC."""
    lines = [
        "| distortion | label | clips | ladders | SRCC | 95 % | PLCC | falling ladders | pairs in order |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        srcc, plcc = ("" if value is None else f"{value:.3f}" for value in (row.srcc, row.plcc))
        interval = "{:.3f} to {:.3f}".format(*row.srcc_interval) if row.srcc_interval else ""
        lines.append(
            f"| {row.name} | {row.label} | {row.clips} | {row.ladders} | {srcc} | {interval} | {plcc} | "
            f"{row.falling:.0%} | {row.falling_pairs:.1%} |"
        )
    return "\n".join(lines) + "\n"
