"""What must be told to a decoder that only decodes, NVDEC by way of DALI, for it to give the frames of SPEC §1.

Such a decoder counts frames and knows no time, leaves pictures as they are stored, and takes all colours for BT.601. So
the host reads the packets, decodes the first frame alone, and hands over: which frames by number, how to turn them, and
what to do to their colours. What cannot be put right afterwards is refused here, for the CPU to decode.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from diffvqa_rt.errors import DeviceDecodeError, ScoreWarning, VideoDecodeError
from diffvqa_rt.video.color import picture_from_frame
from diffvqa_rt.video.container import VideoFile, open_source, open_video
from diffvqa_rt.video.crops import RgbFrame
from diffvqa_rt.video.decode import describe_video, sample_frame, warnings_of
from diffvqa_rt.video.presentation import Orientation
from diffvqa_rt.video.reader import FrameReader
from diffvqa_rt.video.sampled import VideoInfo
from diffvqa_rt.video.stills import declared_size
from diffvqa_rt.video.timeline import NO_TIME, Timeline, read_timeline

# DALI's ffmpeg knows every format and reads local files that a text in one of them names (measured, with `ffconcat`):
# only containers with a mark of their own and a time for every packet, which DALI does not work out.
_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# What NVDEC decodes on every GPU since 2018 (Turing). Not AV1, whose film grain and repeated frames DALI leaves out.
_PIXEL_FORMATS = {
    "h264": ("yuv420p",),
    "hevc": ("yuv420p", "yuv420p10le"),
    "vp9": ("yuv420p", "yuv420p10le"),
}
# The narrowest limits among those codecs, in pixels: HEVC's below, H.264's above.
_LEAST_SIDE, _MOST_SIDE = 144, 4096
# A GPU's decoder serves everybody, without a limit on time.
_MOST_FRAMES_BEFORE = 1000

# The weights of red and blue in luma (ITU-T H.273, table 4).
_LUMA_WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodingPlan:
    """The frames of a video to decode, and what to do to them then.

    Attributes:
        source: the video. It is part of the plan, since DALI must not be given bytes that were not looked at.
        frame_numbers: [N] int32, among all frames in order of time, as DALI counts them.
        rgb_matrix: [3, 3] float32; times RGB that was made by BT.601, it is RGB by the matrix that the video declares.
        orientation: how the frames are to be turned after that.
        timestamps_seconds: of the frames, from the start of the video.
        info: as from `sample_frames`, of the video's first frame. Only the host's one frame counts as decoded: the
            device says nothing of damage.
        warnings: what is to be said of the video.
    """

    source: bytes
    frame_numbers: NDArray[np.int32]
    rgb_matrix: NDArray[np.float32]
    orientation: Orientation
    timestamps_seconds: tuple[float, ...]
    info: VideoInfo
    warnings: tuple[ScoreWarning, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All but the source, for JSON."""
        return {
            "frame_numbers": self.frame_numbers.tolist(),
            "rgb_matrix": self.rgb_matrix.tolist(),
            "orientation": dataclasses.asdict(self.orientation),
            "timestamps_seconds": self.timestamps_seconds,
            "info": dataclasses.asdict(self.info),
            "warnings": [dataclasses.asdict(warning) for warning in self.warnings],
        }

    @classmethod
    def from_dict(cls, source: bytes, values: Mapping[str, Any]) -> "DecodingPlan":
        """The inverse of `as_dict`."""
        return cls(
            source=source,
            frame_numbers=np.array(values["frame_numbers"], np.int32),
            rgb_matrix=np.array(values["rgb_matrix"], np.float32),
            orientation=Orientation(**values["orientation"]),
            timestamps_seconds=tuple(values["timestamps_seconds"]),
            info=VideoInfo(**values["info"]),
            warnings=tuple(ScoreWarning(**warning) for warning in values["warnings"]),
        )


def plan_decoding(source: bytes, count: int) -> DecodingPlan:
    """The plan for the `count` frames that `sample_frames` would give of an undamaged video.

    Raises:
        VideoDecodeError: the source cannot be read, or its first frame does not decode.
        DeviceDecodeError: it can, but on a GPU it would not look as it should.
    """
    with open_source(source) as (name, file):
        if declared_size(name, file) is not None:
            raise DeviceDecodeError(f"{name} is a picture, which is not for the GPU; decode it on the CPU")
        with open_video(name, file) as video:
            timeline = read_timeline(video)
        frame_numbers, wanted = _number_frames(name, timeline, count)
        with FrameReader(name, file, timeline, may_leap=False, needs_keyframe=True) as reader:
            first = reader.first_after()
            if first is None:
                raise VideoDecodeError(f"{name} has no frame that decodes, of {timeline.frame_count}")
            picture = picture_from_frame(first.frame, name, reader.video.presentation, first.turn)
            info = dataclasses.replace(describe_video(reader, timeline, [picture]), decoder="nvdec")
            _refuse_uncovered(reader.video, timeline, first.frame, info)
            return DecodingPlan(
                source=source,
                frame_numbers=frame_numbers,
                rgb_matrix=rgb_matrix(info.color_matrix),
                orientation=first.turn,
                timestamps_seconds=tuple(timeline.seconds(time) for time in wanted),
                info=info,
                warnings=warnings_of(reader, timeline, info, wanted),
            )


def middle_frame(plan: DecodingPlan) -> RgbFrame:
    """The middle one (N // 2) of the planned frames, decoded alone on the CPU: the same as among `sample_frames`'s.

    Raises:
        DeviceDecodeError: it does not decode, or is not what the GPU would show.
    """
    count = len(plan.frame_numbers)
    try:
        sampled = sample_frame(plan.source, count, count // 2)
    except VideoDecodeError as error:
        raise DeviceDecodeError(f"{error}; decode it on the CPU") from error
    if sampled.info.corrupt_frames or sampled.info.field_order != "progressive":
        raise DeviceDecodeError("<bytes> has a middle frame that is damaged or interlaced; decode it on the CPU")
    return sampled.frames[0]


def _number_frames(name: str, timeline: Timeline, count: int) -> tuple[NDArray[np.int32], list[int]]:
    """The sampled frames' numbers as DALI counts, and their times.

    DALI's index is the sorted times of all packets, hidden ones too, less those before time zero; a packet without a
    time counts by its decoding time (`FramesDecoderBase::BuildIndex`).
    """
    pts, dts = timeline.marks[:, 0], timeline.marks[:, 1]
    times = np.where(pts == NO_TIME, dts, pts)
    positions = [timeline.position_at(centre) for centre in timeline.span_centres(count)]
    distance = max(position - timeline.keyframe_before(position) for position in positions)
    if distance > _MOST_FRAMES_BEFORE:
        raise DeviceDecodeError(
            f"{name} has {distance:,} frames from a keyframe to a sample, too many for the GPU; decode it on the CPU"
        )
    wanted = [int(timeline.pts[position]) for position in positions]
    if not timeline.has_clock or NO_TIME in times or min(wanted) < 0:
        raise DeviceDecodeError(f"{name} has frames without a time or before time zero; decode it on the CPU")
    numbers = np.searchsorted(np.sort(times[times >= 0]), wanted)
    return numbers.astype(np.int32), wanted


def _refuse_uncovered(video: VideoFile, timeline: Timeline, frame: VideoFrame, info: VideoInfo) -> None:
    sides = (frame.width, frame.height)
    container = video.container.format.name
    obstacles = [
        (container not in _CONTAINERS, f"container {container}"),
        (info.codec not in _PIXEL_FORMATS, f"codec {info.codec}"),
        (info.pixel_format not in _PIXEL_FORMATS.get(info.codec, ()), f"pixel format {info.pixel_format}"),
        # DALI sees the range that the bitstream declares, not the container's.
        (info.color_range != "limited", f"colour range {info.color_range}"),
        (frame.interlaced_frame, "interlaced frames"),
        (video.presentation.crop is not None, "a crop"),
        (bool(timeline.warnings), "times that had to be mended"),
        (not timeline.is_seekable, "packets that no seek leads to"),
        (
            any(side % 2 or not _LEAST_SIDE <= side <= _MOST_SIDE for side in sides),
            f"{sides[0]}x{sides[1]} pixels, not even numbers from {_LEAST_SIDE} to {_MOST_SIDE}",
        ),
    ]
    for is_obstacle, obstacle in obstacles:
        if is_obstacle:
            raise DeviceDecodeError(f"{video.name} has {obstacle}, which is not for the GPU; decode it on the CPU")


def rgb_matrix(color_matrix: str) -> NDArray[np.float32]:
    """From RGB made by BT.601 to RGB made by `color_matrix`, [3, 3] float32, of limited-range samples.

    Exact to a grey level, but for colours that BT.601 puts outside of 0 to 255 and the decoder clips there: in BT.709,
    one of six in the cube, by 0.8 grey levels in the mean over all colours and 37 at most.
    """
    to_rgb, from_bt601 = _rgb_from_ycc(*_LUMA_WEIGHTS[color_matrix]), _rgb_from_ycc(*_LUMA_WEIGHTS["smpte170m"])
    return (to_rgb @ np.linalg.inv(from_bt601)).astype(np.float32)


def _rgb_from_ycc(red: float, blue: float) -> NDArray[np.float64]:
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 2 * (1 - blue), 0],
        ]
    )
