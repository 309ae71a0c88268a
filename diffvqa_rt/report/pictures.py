"""Small pictures for a page: the frames that were scored, with their crops, and maps of patches."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.decoding import IsolatedDecoder
from diffvqa_rt.errors import DiffVQAError, printable
from diffvqa_rt.results import PatchMaps, VideoScore
from diffvqa_rt.video import SampledFrames
from diffvqa_rt.video.crops import Region

REPORT_BYTES = 8_000_000
"""What the frames of all videos may take, in base64; the fewer the videos, the larger their pictures."""

MOST_VIDEO_BYTES = 250_000
MOST_FRAMES = 64
_LONG_SIDES = (480, 360, 280, 220, 160, 112)
_MOST_CROPS = 25
# Timestamps are the decoder's own, exact but for JSON's and Parquet's way through text.
_TIME_TOLERANCE_SECONDS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A frame as a page shows it.

    Attributes:
        url: the picture, a `data:` URL.
        width, height: of the frame, in pixels.
        regions: the crops on it.
        seconds: its time.
    """

    url: str
    width: int
    height: int
    regions: tuple[Region, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchPicture:
    """A part's patch scores or weights as a picture of a pixel a patch.

    Frames stand side by side and crops below each other; of a single frame, crops stand side by side.
    """

    part: str
    kind: str
    url: str
    width: int
    height: int
    low: float
    high: float


class ScoredFrames:
    """The frames that results are of, where the files are at hand, each decoded in the decoder's own process."""

    def __init__(self) -> None:
        self._decoder = IsolatedDecoder()

    def close(self) -> None:
        """Ends the decoder's process."""
        self._decoder.close()

    def thumbnails(self, score: VideoScore, folder: Path, videos: int) -> tuple[tuple[Thumbnail, ...], str]:
        """The frames of a result, and a sentence that says why there are none; empty where there are.

        Args:
            score: of the video.
            folder: where a relative path may begin too, that of the results' file.
            videos: in the report.
        """
        path = _at_hand(score.source, folder)
        if path is None:
            return (), "The video is not at hand."
        if not 0 < len(score.timestamps_seconds) <= MOST_FRAMES:
            return (), f"The score is of {len(score.timestamps_seconds)} frames; {MOST_FRAMES} at most are shown."
        keep_interlaced = score.video.field_order != "progressive" and not score.video.is_deinterlaced
        try:
            sampled = self._decoder.frames(path, len(score.timestamps_seconds), keep_interlaced=keep_interlaced)
        except (DiffVQAError, OSError, ValueError) as error:
            return (), f"The frames cannot be shown: {printable(str(error))}"
        if not _are_the_same(sampled, score):
            return (), "The file has changed since it was scored: its frames are others."
        return _thumbnails(sampled, score.crop_regions[:_MOST_CROPS], min(MOST_VIDEO_BYTES, REPORT_BYTES // videos)), ""


def patch_pictures(maps: PatchMaps) -> list[PatchPicture]:
    """A picture of each part's scores and one of its weights."""
    return [
        _patch_picture(part, kind, np.asarray(values, np.float64)[:, :, index])
        for index, part in enumerate(maps.parts)
        for kind, values in (("scores", maps.scores), ("weights", maps.weights))
    ]


def _patch_picture(part: str, kind: str, values: NDArray[np.float64]) -> PatchPicture:
    """The picture of values [crops, frames, rows, columns]."""
    low, high = float(values.min()), float(values.max())
    shades = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
    pixels = (colormaps["viridis"](shades) * 255).round().astype(np.uint8)
    if pixels.shape[1] == 1:
        pixels = pixels.swapaxes(0, 1)
    # A transparent patch between crops and between frames.
    pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
    crops, frames, rows, columns, _ = pixels.shape
    mosaic = pixels.transpose(0, 2, 1, 3, 4).reshape(crops * rows, frames * columns, 4)[:-1, :-1]
    image = Image.fromarray(mosaic)
    url = _data_url(image, "png", {"optimize": True})
    return PatchPicture(part=part, kind=kind, url=url, width=image.width, height=image.height, low=low, high=high)


def _at_hand(source: str, folder: Path) -> Path | None:
    """The file or folder of a source; None where it is not on this machine."""
    try:
        return next((path for path in (Path(source), folder / source) if path.is_file() or path.is_dir()), None)
    except (OSError, ValueError):  # no name of a file
        return None


def _are_the_same(sampled: SampledFrames, score: VideoScore) -> bool:
    times = np.array(sampled.timestamps_seconds), np.array(score.timestamps_seconds)
    sizes = [(info.width, info.height) for info in (sampled.info, score.video)]
    return sizes[0] == sizes[1] and bool(np.allclose(*times, rtol=0, atol=_TIME_TOLERANCE_SECONDS))


def _thumbnails(sampled: SampledFrames, regions: Sequence[Region], most_bytes: int) -> tuple[Thumbnail, ...]:
    """Pictures as large as fit, and no smaller than the smallest size."""
    for side in _LONG_SIDES:
        urls = [_frame_url(frame, side) for frame in sampled.frames]
        if sum(map(len, urls)) <= most_bytes:
            break
    first = sampled.frames[0].shape
    return tuple(
        Thumbnail(
            url=url,
            width=frame.shape[1],
            height=frame.shape[0],
            # The regions are places on the first frame, and true of those of its size alone.
            regions=tuple(regions) if frame.shape == first else (),
            seconds=seconds,
        )
        for url, frame, seconds in zip(urls, sampled.frames, sampled.timestamps_seconds, strict=True)
    )


def _frame_url(frame: NDArray[np.uint8], side: int) -> str:
    image = Image.fromarray(frame)
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2)
    return _data_url(image, "webp", {"quality": 60})


def _data_url(image: Image.Image, kind: str, options: dict[str, object]) -> str:
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
