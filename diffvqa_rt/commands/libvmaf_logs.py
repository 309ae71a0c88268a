"""Results in the layouts of libvmaf's logs, for the tools that read those.

A frame is one that was scored, under its number in the video, as in a log of libvmaf with `n_subsample`. The pooled
values are libvmaf's over these frames. The video's own score weighs the frames otherwise, and stands where libvmaf has
values that are not pooled from frames: in `aggregate_metrics`. The layouts are those of libvmaf's
`src/output.c`: https://github.com/Netflix/vmaf/blob/master/libvmaf/src/output.c.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np

from diffvqa_rt import __version__
from diffvqa_rt.arguments import UsageError
from diffvqa_rt.metric import Metric
from diffvqa_rt.results import VideoScore


@dataclass(frozen=True, kw_only=True, slots=True)
class LibvmafLog:
    """The content of one log.

    Attributes:
        metric: the name under which the scores stand.
        frames: the score of each frame by its number in the video, in the order of the numbers.
        pooled: of the frames' scores `min`, `max`, `mean` and `harmonic_mean`.
        score: of the video.
        frames_per_second: scored, by the wall time of all stages.
        width, height: of the video, in pixels.
    """

    metric: str
    frames: dict[int, float]
    pooled: dict[str, float]
    score: float
    frames_per_second: float
    width: int
    height: int


def check_libvmaf_format(format_name: str, metric: Metric, results: int) -> None:
    """Raises UsageError where `format_name` is one of libvmaf's, and there is no one frame curve to write."""
    if format_name not in LIBVMAF_FORMATS:
        return
    if results != 1:
        raise UsageError(
            f"--format {format_name} is for one result, and there are {results}: a log of libvmaf is of one video; "
            "run the command once a video"
        )
    config = next(iter(metric.presets.values()))  # all of a metric have the same results
    if all(spec.name != "frame_scores" for spec in metric.results(config, metric.name)):
        raise UsageError(
            f"--format {format_name} is for metrics that score frames, and {metric.name} gives no scores of frames; "
            "use --format json"
        )


def libvmaf_log(result: VideoScore) -> LibvmafLog:
    """The log of a result that has scores of frames.

    A frame that stands for several samples, as in a video of few frames, appears once, with their mean.
    """
    assert result.frame_scores, "`check_libvmaf_format` comes first"
    rate = result.video.frame_rate_hz or 1.0  # stills, folders and arrays count as one frame a second
    samples: dict[int, list[float]] = defaultdict(list)
    for seconds, score in zip(result.timestamps_seconds, result.frame_scores, strict=True):
        samples[round(seconds * rate)].append(score)
    frames = {number: float(np.mean(samples[number])) for number in sorted(samples)}
    seconds = sum(result.stage_seconds.values())
    return LibvmafLog(
        metric=result.metric,
        frames=frames,
        pooled=pooled_scores(list(frames.values())),
        score=result.score,
        frames_per_second=len(result.frame_scores) / seconds if seconds else 0.0,
        width=result.video.width,
        height=result.video.height,
    )


def pooled_scores(scores: list[float]) -> dict[str, float]:
    """libvmaf's pooled values of frames' scores.

    Its harmonic mean is n / Σ 1/(s + 1) − 1, so that 0 is allowed; NaN where a score is −1 or less.
    """
    values = np.array(scores)
    has_harmonic = values.min() > -1
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "harmonic_mean": float(len(values) / (1 / (values + 1)).sum() - 1) if has_harmonic else math.nan,
    }


def json_log(log: LibvmafLog) -> str:
    """As libvmaf's JSON; NaN is null there."""
    head = '    {\n      "frameNum": '
    frames = ",\n".join(
        f'{head}{number},\n      "metrics": {{\n        "{log.metric}": {score:.6f}\n      }}\n    }}'
        for number, score in log.frames.items()
    )
    pooled = ",\n".join(
        f'      "{name}": {"null" if math.isnan(value) else f"{value:.6f}"}' for name, value in log.pooled.items()
    )
    return (
        f'{{\n  "version": "{_VERSION}",\n  "fps": {log.frames_per_second:.2f},\n'
        f'  "frames": [\n{frames}\n  ],\n'
        f'  "pooled_metrics": {{\n    "{log.metric}": {{\n{pooled}\n    }}\n  }},\n'
        f'  "aggregate_metrics": {{\n    "{log.metric}": {log.score:.6f}\n  }}\n}}'
    )


def xml_log(log: LibvmafLog) -> str:
    frames = "\n".join(
        f'    <frame frameNum="{number}" {log.metric}="{score:.6f}" />' for number, score in log.frames.items()
    )
    pooled = " ".join(f'{name}="{value:.6f}"' for name, value in log.pooled.items())
    return (
        f"<VMAF version={quoteattr(_VERSION)}>\n"
        f'  <params qualityWidth="{log.width}" qualityHeight="{log.height}" />\n'
        f'  <fyi fps="{log.frames_per_second:.2f}" />\n'
        f"  <frames>\n{frames}\n  </frames>\n"
        f'  <pooled_metrics>\n    <metric name="{log.metric}" {pooled} />\n  </pooled_metrics>\n'
        f'  <aggregate_metrics {log.metric}="{log.score:.6f}" />\n</VMAF>'
    )


def csv_log(log: LibvmafLog) -> str:
    """The frames alone: libvmaf's CSV has no pooled values. Lines end in a comma, as there."""
    rows = (f"{number},{score:.6f}," for number, score in log.frames.items())
    return "\n".join((f"Frame,{log.metric},", *rows))


_VERSION = f"diffvqa_rt {__version__}"

LIBVMAF_FORMATS: dict[str, Callable[[LibvmafLog], str]] = {
    "vmaf-json": json_log,
    "vmaf-xml": xml_log,
    "vmaf-csv": csv_log,
}
"""By the name of `--format`, what makes the text of a log."""
