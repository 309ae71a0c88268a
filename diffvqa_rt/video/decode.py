"""A few frames of a video, spread evenly over its duration, without decoding what lies between."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from diffvqa_rt.checks import whole
from diffvqa_rt.errors import InputError, ScoreWarning, VideoDecodeError
from diffvqa_rt.video.color import Picture, picture_from_frame
from diffvqa_rt.video.container import MAX_FRAME_PIXELS, open_source, open_video
from diffvqa_rt.video.filters import deinterlaced
from diffvqa_rt.video.reader import FalseKeyframeError, FrameReader, SeekMissedError, TimedFrame
from diffvqa_rt.video.sampled import (
    SampledFrames,
    VideoInfo,
    few_frames_warnings,
    hdr_warnings,
    indices_at_centres,
)
from diffvqa_rt.video.sequence import open_folder, sample_sequence
from diffvqa_rt.video.stills import sample_still
from diffvqa_rt.video.timeline import Timeline, read_timeline

# Where the right keyframe leads to no good frame: how many keyframes to go further back, in turn.
_STEPS_BACK = (1, 3)
# After so many keyframes that are none, no flag is believed, and all frames are decoded.
_FALSE_KEYFRAMES = 3


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    time: int
    picture: Picture


def sample_frames(
    source: str | os.PathLike[str] | bytes | NDArray[np.uint8],
    count: int,
    *,
    animation_count: int | None = None,
    keep_interlaced: bool = False,
) -> SampledFrames:
    """The `count` frames on screen at the centres of as many equal spans of the video's duration (SPEC §1).

    In place of a frame that does not decode comes the last good one before it, or else the first after it. Memory
    does not grow with the video's length, and the same source gives the same frames on any number of cores.

    Args:
        source: a path, the bytes of a video or image file, or RGB frames, uint8 [T, H, W, 3] or [H, W, 3]. The path of
            a folder stands for the pictures in it, in the order of the numbers in their names.
        count: at least 1; a video of fewer frames repeats the nearest.
        animation_count: the same of an animated picture: GIF, PNG, WebP or AVIF; `count` by default.
        keep_interlaced: leave interlaced frames combed, as they are stored, in place of deinterlacing them.

    Raises:
        VideoDecodeError: the source cannot be read, or nothing in it decodes.
        InputError: the array is of the wrong shape.
        TypeError, ValueError: an argument is of the wrong kind or out of range, or the array of the wrong dtype.
    """
    count = whole("count", count, 1)
    if isinstance(source, np.ndarray):
        return _sample_array(source, count)
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise TypeError(f"source is a {type(source).__name__}; expected a path, bytes or a uint8 array")
    with open_folder(source) as folder:
        if folder is not None:
            return sample_sequence(folder, count)
    with open_source(source) as (name, file):
        still = sample_still(name, file, count, animation_count or count)
        if still is not None:
            return still
        return _sample_video(name, file, lambda timeline: timeline.span_centres(count), keep_interlaced)


def sample_frame(source: bytes, count: int, index: int) -> SampledFrames:
    """The frame alone that `sample_frames(source, count)` has at `index`, if the video is undamaged; no still.

    Raises:
        VideoDecodeError: the source cannot be read, or neither the frame decodes nor any other in its place.
    """
    with open_source(source) as (name, file):
        return _sample_video(name, file, lambda timeline: timeline.span_centres(count)[index : index + 1], False)


def _sample_array(array: NDArray[np.uint8], count: int) -> SampledFrames:
    if array.dtype != np.uint8:
        raise TypeError(f"source is an array of {array.dtype}; expected uint8, RGB from 0 to 255")
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(f"source is an array of shape {array.shape}; expected [T, H, W, 3] or [H, W, 3], not empty")
    clip = array if array.ndim == 4 else array[None]
    length, height, width, _ = clip.shape
    pictures = list(clip)
    chosen = indices_at_centres(length, count)
    info = VideoInfo(
        width=width,
        height=height,
        frame_count=length,
        duration_seconds=float(length),
        frame_rate_hz=None,
        decoder="array",
        codec="array",
        pixel_format="rgb24",
        bit_depth=8,
        rotation_degrees=0,
        is_mirrored=False,
        color_matrix="rgb",
        is_color_matrix_declared=True,
        color_range="full",
        color_transfer="unspecified",
        decoded_frames=0,
        corrupt_frames=0,
        color_primaries="unspecified",
        sample_aspect_ratio=None,
        field_order="progressive",
        is_deinterlaced=False,
    )
    return SampledFrames(
        frames=tuple(pictures[index] for index in chosen),
        timestamps_seconds=tuple(float(index) for index in chosen),
        info=info,
    )


def _sample_video(
    name: str, file: BinaryIO, choose: Callable[[Timeline], list[int]], keep_interlaced: bool
) -> SampledFrames:
    with open_video(name, file) as video:
        timeline = read_timeline(video)
    targets = choose(timeline)
    sound_times = [int(timeline.pts[timeline.position_at(target)]) for target in targets]
    skips = bool(timeline.is_key.any())
    may_leap = needs_keyframe = may_seek = True
    false_keyframes = 0
    while True:
        with FrameReader(
            name, file, timeline, may_leap=may_leap, needs_keyframe=needs_keyframe, may_seek=may_seek
        ) as reader:
            try:
                samples = _collect(name, reader, timeline, targets, skips, keep_interlaced)
            except SeekMissedError:
                may_seek = False
                continue
            except FalseKeyframeError as error:
                false_keyframes += 1
                timeline = timeline.without_keyframe(error.position)
                skips = false_keyframes < _FALSE_KEYFRAMES
                continue
            is_damaged = reader.corrupt_frames > 0 or [sample.time for sample in samples] != sound_times
            if is_damaged and reader.leaps:
                may_leap = False
                continue
            if not samples and reader.passed_over:
                # A stream without any keyframe, refreshed bit by bit.
                needs_keyframe = False
                continue
            if not samples:
                raise VideoDecodeError(
                    f"{name} has no frame that decodes, of {timeline.frame_count}; check that it is undamaged and has "
                    f"at most {MAX_FRAME_PIXELS:,} pixels a picture"
                )
            # What comes after the last good frame is that frame.
            samples += samples[-1:] * (len(targets) - len(samples))
            info = describe_video(reader, timeline, [sample.picture for sample in samples])
            return SampledFrames(
                frames=tuple(sample.picture.pixels for sample in samples),
                timestamps_seconds=tuple(timeline.seconds(sample.time) for sample in samples),
                info=info,
                warnings=warnings_of(reader, timeline, info, [sample.time for sample in samples]),
            )


def _collect(
    name: str, reader: FrameReader, timeline: Timeline, targets: list[int], skips: bool, keep_interlaced: bool
) -> list[_Sample]:
    """One sample for each of the ascending times `targets`, up to where nothing decodes any more."""
    samples: list[_Sample] = []
    for target in targets:
        found = _frame_on_screen(reader, timeline, target, skips, keep_interlaced)
        if found is None:
            break
        if samples and samples[-1].time == found.time:
            samples.append(samples[-1])
            continue
        whole = None
        if found.frame.interlaced_frame and not keep_interlaced:
            after = reader.first_after()
            whole = deinterlaced(_stored(reader.before), found.frame, None if after is found else _stored(after))
        picture = picture_from_frame(found.frame, name, reader.video.presentation, found.turn, whole)
        samples.append(_Sample(found.time, picture))
    return samples


def _stored(timed: TimedFrame | None) -> VideoFrame | None:
    return None if timed is None else timed.frame


def _frame_on_screen(
    reader: FrameReader, timeline: Timeline, time: int, skips: bool, keep_interlaced: bool
) -> TimedFrame | None:
    """The last good frame not later than `time` if one is near, else the first good one after it."""
    position = timeline.position_at(time)
    keyframe = timeline.keyframe_before(position)
    if skips and keyframe > reader.position:
        reader.go_to(keyframe)
    found = reader.last_until(time)
    for steps in _STEPS_BACK if skips else ():
        is_alone = found is not None and found.frame.interlaced_frame and reader.before is None and not keep_interlaced
        if (found is not None and not is_alone) or keyframe == 0:
            break
        keyframe = timeline.keyframe_before(position, steps)
        reader.go_to(keyframe)
        found = reader.last_until(time)
    return found if found is not None else reader.first_after()


def warnings_of(
    reader: FrameReader, timeline: Timeline, info: VideoInfo, times: Sequence[int]
) -> tuple[ScoreWarning, ...]:
    """The warnings of a video of which the frames of these `times` are scored."""
    warnings = list(timeline.warnings)
    if info.corrupt_frames:
        warnings.append(
            ScoreWarning(
                "damaged",
                f"{info.corrupt_frames:,} of its frames did not decode, or only with errors, and were passed over",
            )
        )
    warnings += few_frames_warnings(times, timeline.frame_count)
    warnings += hdr_warnings(info.color_transfer)
    if reader.video.presentation.dolby_vision is not None:
        warnings.append(
            ScoreWarning("dolby-vision-as-coded", "its Dolby Vision metadata are not applied; the base layer is scored")
        )
    return tuple(warnings)


def describe_video(reader: FrameReader, timeline: Timeline, pictures: Sequence[Picture]) -> VideoInfo:
    """The facts of a video once these of its frames are decoded."""
    video, first = reader.video, pictures[0]
    # Films on television have both kinds.
    interlaced = next((picture for picture in pictures if picture.field_order != "progressive"), first)
    # Streams of pictures come by libavformat's readers of pictures too. One picture alone has no duration, and ffmpeg
    # gives it that of a frame at 25 Hz.
    is_still = timeline.frame_count == 1 and video.container.format.name.endswith("_pipe")
    duration_seconds = 0.0 if is_still else timeline.duration_seconds
    height, width, _ = first.pixels.shape
    return VideoInfo(
        width=width,
        height=height,
        frame_count=timeline.frame_count,
        duration_seconds=duration_seconds,
        frame_rate_hz=timeline.frame_count / duration_seconds if duration_seconds else None,
        decoder="pyav",
        codec=video.stream.codec_context.codec.canonical_name,
        pixel_format=first.pixel_format,
        bit_depth=first.bit_depth,
        rotation_degrees=first.orientation.rotation_degrees,
        is_mirrored=first.orientation.is_mirrored,
        color_matrix=first.color.matrix,
        is_color_matrix_declared=first.color.is_matrix_declared,
        color_range=first.color.range,
        color_transfer=first.color.transfer,
        decoded_frames=reader.decoded_frames,
        corrupt_frames=reader.corrupt_frames,
        color_primaries=first.color.primaries,
        sample_aspect_ratio=_ratio(video.stream.sample_aspect_ratio),
        field_order=interlaced.field_order,
        is_deinterlaced=interlaced.is_deinterlaced,
    )


def _ratio(ratio: Fraction | None) -> str | None:
    return f"{ratio.numerator}:{ratio.denominator}" if ratio else None
