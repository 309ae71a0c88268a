"""From a source's frames to what a metric's engines take, in this process or in the decoder's."""

import dataclasses
import time
from dataclasses import dataclass

from numpy.typing import NDArray

from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.metric import Config, Metric, PreparedPrompt, Request
from diffvqa_rt.video import SampledFrames, VideoInfo
from diffvqa_rt.video.crops import Region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedSource:
    """A source that has become the engines' input; its full-size frames are gone.

    Attributes:
        arrays, crop_regions: what `Metric.prepare` made; the rows of what is cut are crops.
        timestamps_seconds, info, warnings: as in `SampledFrames`; the metric's own warnings are among them.
        decode_seconds, views_seconds: how long the decoding and the preparation took.
    """

    arrays: dict[str, NDArray]
    crop_regions: tuple[Region, ...]
    timestamps_seconds: tuple[float, ...]
    info: VideoInfo
    warnings: tuple[ScoreWarning, ...]
    decode_seconds: float
    views_seconds: float

    @property
    def rows(self) -> int:
        """The most rows of any of its arrays."""
        return max(len(array) for array in self.arrays.values())

    def with_prompt(self, prompt: PreparedPrompt | None) -> "PreparedSource":
        """The same with a prompt's arrays."""
        return self if prompt is None else dataclasses.replace(self, arrays=self.arrays | prompt.arrays)


def prepare_frames(
    sampled: SampledFrames, metric: Metric, config: Config, request: Request, decode_seconds: float
) -> PreparedSource:
    """The input of a network of these frames, which took so long to decode.

    Raises:
        TypeError, ValueError: as `Metric.prepare`.
    """
    start = time.perf_counter()
    if not metric.is_temporal:
        sampled = sampled.without_repeats()
    request = metric.settle(config, request, len(sampled.frames))
    arrays, crop_regions = metric.prepare(config, sampled.frames, request)
    return PreparedSource(
        arrays=arrays,
        crop_regions=crop_regions,
        timestamps_seconds=sampled.timestamps_seconds,
        info=sampled.info,
        warnings=sampled.warnings + metric.warnings(config, sampled.info),
        decode_seconds=decode_seconds,
        views_seconds=time.perf_counter() - start,
    )
