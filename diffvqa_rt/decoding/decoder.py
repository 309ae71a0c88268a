"""Decoding in another process: a path or a file's bytes in, frames or what a metric's engines take out."""

import contextlib
import dataclasses
import io
import math
import os
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np

from diffvqa_rt.checks import whole
from diffvqa_rt.decoding.limits import DecodeLimits
from diffvqa_rt.decoding.process import DecoderProcess, DecoderProcesses, ProcessEndedError, TimeIsOverError
from diffvqa_rt.errors import (
    DecoderFaultError,
    DecoderStartError,
    DiffVQAError,
    InputError,
    ScoreWarning,
    VideoDecodeError,
)
from diffvqa_rt.metric import Config, Metric, Request
from diffvqa_rt.preparation import PreparedSource
from diffvqa_rt.specs import TensorSpec
from diffvqa_rt.video import SampledFrames, VideoInfo
from diffvqa_rt.video.container import open_source
from diffvqa_rt.video.crops import Region
from diffvqa_rt.video.plan import DecodingPlan
from diffvqa_rt.video.sequence import OpenFolder, open_folder

EncodedSource = str | os.PathLike[Any] | bytes
"""A path, of a file or of a folder of pictures, or an encoded video's content: what a decoder takes."""

_ERRORS: dict[str, type[DiffVQAError]] = {
    "video": VideoDecodeError,
    "memory": VideoDecodeError,
    "input": InputError,
    "fault": DecoderFaultError,
}
"""The errors by `framing.ErrorKind`."""

Result = TypeVar("Result")


class Pending(Generic[Result]):
    """A video that its process is at work on; end it by `result` or by `cancel`."""

    def __init__(
        self,
        processes: DecoderProcesses,
        request: dict[str, Any],
        file: BinaryIO | OpenFolder,
        opened: contextlib.ExitStack,
        reception: "_Reception[Result]",
    ) -> None:
        """Sends the request at once; `opened` is closed at the end, with the file."""
        self._processes = processes
        self._request = request
        self._file = file
        self._opened = opened
        self._reception = reception
        self._process: DecoderProcess | None = None
        try:
            self._begin()
        except ProcessEndedError:
            pass  # one that had ended before, or did now: `result` asks again
        except BaseException:
            self.cancel()
            raise

    def result(self) -> Result:
        """Waits for the answer.

        Raises:
            VideoDecodeError: as in-process decoding does.
            VideoDecodeError: the video takes too long, too much memory, or ends its process.
            InputError: the process refuses an option of the request.
            DecoderStartError: there is no process to decode in.
            DecoderFaultError: the process fails at something other than the video.
        """
        try:
            values = self._answer()
        finally:
            self.cancel()
        if "error" in values:
            # A decoder that a video has taken over may say anything.
            raise _ERRORS.get(str(values.get("kind")), VideoDecodeError)(str(values["error"]))
        return self._reception.unpack(values)

    def cancel(self) -> None:
        """Ends the process, if it is still at work."""
        self._end_process()
        self._opened.close()

    def _answer(self) -> dict[str, Any]:
        name, seconds = self._request["name"], self._request["max_decode_seconds"]
        for is_last in (False, True):  # whoever ended the first one may have meant something else
            try:
                if self._process is None:
                    self._begin(in_new_process=True)
                assert self._process is not None
                message = self._process.receive(self._reception.allocate, seconds)
            except TimeIsOverError as error:
                raise VideoDecodeError(
                    f"{name} takes longer than {seconds:g} s to decode; shorten it or scale it down"
                ) from error
            except ProcessEndedError as error:
                if is_last:
                    raise VideoDecodeError(f"{name} ended the decoder's process ({error}); check the file") from error
                self._end_process()
            else:
                if message.values.get("kind") != "memory":
                    self._processes.give_back(self._process)
                    self._process = None
                return message.values
        raise AssertionError

    def _begin(self, *, in_new_process: bool = False) -> None:
        process = self._processes.start() if in_new_process else self._processes.take()
        try:
            process.send(self._request, self._file.fileno(), self._request["max_decode_seconds"])
        except BaseException:
            self._processes.end(process)
            raise
        self._process = process

    def _end_process(self) -> None:
        if self._process is not None:
            self._processes.end(self._process)
            self._process = None


@dataclass(frozen=True, slots=True)
class _Reception(Generic[Result]):
    """Gives the memory for an answer's pixels, and makes the result of them and of its values."""

    allocate: Callable[[int], memoryview]
    unpack: Callable[[dict[str, Any]], Result]


class IsolatedDecoder:
    """Decodes in processes of its own, which end with it; any number of threads may use it at a time.

    A forked child starts processes of its own.
    """

    def __init__(self, limits: DecodeLimits | None = None, python: str | None = None) -> None:
        """A decoder without a process so far.

        Args:
            limits: of each video.
            python: the interpreter; this one by default.
        """
        self.limits = limits or DecodeLimits()
        self._processes = DecoderProcesses(python)
        weakref.finalize(self, self._processes.end_all)

    def close(self) -> None:
        """Ends the processes; another video would start another one."""
        self._processes.end_all()

    def warm_up(self) -> None:
        """Starts a process for the first video, without waiting for it; if none starts, the first video says so."""
        with contextlib.suppress(DecoderStartError):
            self._processes.give_back(self._processes.start())

    def frames(self, source: EncodedSource, count: int, *, keep_interlaced: bool = False) -> SampledFrames:
        """Returns the frames that `sample_frames` gives.

        Raises:
            VideoDecodeError, ValueError, TypeError: as `sample_frames`; all that `Pending.result` raises.
        """
        count = whole("count", count, 1)
        most = count * self.limits.max_frame_pixels * 3
        pixels = np.empty(0, np.uint8)

        def allocate(size: int) -> memoryview:
            nonlocal pixels
            if size > most:
                raise ValueError(f"{size} bytes of frames; expected at most {most}")
            pixels = np.empty(size, np.uint8)
            return pixels.data

        def unpack(values: dict[str, Any]) -> SampledFrames:
            distinct, start = [], 0
            for shape in values["shapes"]:
                end = start + math.prod(shape)
                distinct.append(pixels[start:end].reshape(shape))
                start = end
            return SampledFrames(
                frames=tuple(distinct[number] for number in values["numbers"]),
                timestamps_seconds=tuple(values["timestamps_seconds"]),
                info=VideoInfo(**values["info"]),
                warnings=_warnings(values),
            )

        request = {"task": "frames", "frames": count, "keep_interlaced": bool(keep_interlaced)}
        return self._ask(source, request, _Reception(allocate, unpack)).result()

    def begin(self, source: EncodedSource, metric: Metric, config: Config, request: Request) -> Pending[PreparedSource]:
        """Begins to make, in the process while this one goes on, what `prepare_frames` makes of a source.

        Raises:
            VideoDecodeError: the source cannot be opened.
            DecoderStartError: there is no process to decode in.
        """
        specs = metric.inputs(config)
        row_bytes = sum(_row_bytes(spec) for spec in specs)
        # A row per crop, and of a metric that scores frames alone per frame.
        most = metric.most_crops(config, request) * metric.frame_count(config, request) * row_bytes
        content = np.empty(0, np.uint8)

        def allocate(size: int) -> memoryview:
            nonlocal content
            if size > most:
                raise ValueError(f"{size} bytes of rows; expected at most {most}")
            content = np.empty(size, np.uint8)
            return content.data

        def unpack(values: dict[str, Any]) -> PreparedSource:
            start = 0
            arrays = {}
            for spec, rows in zip(specs, values["rows"], strict=True):
                end = start + rows * _row_bytes(spec)
                arrays[spec.name] = content[start:end].view(spec.dtype).reshape(rows, *spec.shape[1:])
                start = end
            return PreparedSource(
                arrays=arrays,
                crop_regions=_regions(values),
                timestamps_seconds=tuple(values["timestamps_seconds"]),
                info=VideoInfo(**values["info"]),
                warnings=_warnings(values),
                decode_seconds=values["decode_seconds"],
                views_seconds=values["views_seconds"],
            )

        return self._ask(source, _task("prepare", metric, config, request), _Reception(allocate, unpack))

    def prepare(self, source: EncodedSource, metric: Metric, config: Config, request: Request) -> PreparedSource:
        """The same at once. Raises as `begin` and `Pending.result`."""
        return self.begin(source, metric, config, request).result()

    def plan(
        self, video: bytes, metric: Metric, config: Config, request: Request
    ) -> tuple[DecodingPlan, tuple[Region, ...]] | None:
        """Returns the plan by which a GPU decodes the video, and the crops' regions; None if it is not for a GPU.

        Raises as `frames`.
        """

        def unpack(values: dict[str, Any]) -> tuple[DecodingPlan, tuple[Region, ...]] | None:
            if values["plan"] is None:
                return None
            return DecodingPlan.from_dict(video, values["plan"]), _regions(values)

        return self._ask(video, _task("plan", metric, config, request), _Reception(_nothing, unpack)).result()

    def _ask(self, source: EncodedSource, request: dict[str, Any], reception: _Reception[Result]) -> Pending[Result]:
        with contextlib.ExitStack() as stack:
            name, file = _open(source, stack)
            limits = {
                "max_decode_seconds": self.limits.max_decode_seconds,
                "max_decode_memory_bytes": self.limits.max_decode_memory_bytes,
                "max_frames": self.limits.max_frames,
                "max_frame_pixels": self.limits.max_frame_pixels,
                "taker": self.limits.TAKER,
            }
            return Pending(self._processes, {"name": name, **request, **limits}, file, stack.pop_all(), reception)
        raise AssertionError


@cache
def shared_decoder() -> IsolatedDecoder:
    """The decoder of all that has none of its own, within the default limits."""
    return IsolatedDecoder()


def _row_bytes(spec: TensorSpec) -> int:
    return math.prod(int(size) for size in spec.shape[1:]) * np.dtype(spec.dtype).itemsize


def _task(task: str, metric: Metric, config: Config, request: Request) -> dict[str, Any]:
    """The request to the process; without its prompt, which no frame depends on."""
    asked = dataclasses.asdict(dataclasses.replace(request, prompt=None))
    return {"task": task, "metric": metric.name, "config": config.as_dict(), "request": asked}


def _regions(values: dict[str, Any]) -> tuple[Region, ...]:
    return tuple(tuple(region) for region in values["crop_regions"])


def _warnings(values: dict[str, Any]) -> tuple[ScoreWarning, ...]:
    return tuple(ScoreWarning(**warning) for warning in values["warnings"])


def _nothing(size: int) -> memoryview:
    if size:
        raise ValueError(f"{size} bytes; expected none")
    return memoryview(b"")


def _open(source: EncodedSource, stack: contextlib.ExitStack) -> tuple[str, BinaryIO | OpenFolder]:
    """The name of a source, and what another process can read of it."""
    if (folder := stack.enter_context(open_folder(source))) is not None:
        return folder.name, folder
    name, file = stack.enter_context(open_source(source))
    return name, stack.enter_context(_in_memory(file)) if isinstance(file, io.BytesIO) else file


def _in_memory(content: io.BytesIO) -> BinaryIO:
    """The same bytes as a file that another process can read."""
    if hasattr(os, "memfd_create"):
        file: BinaryIO = os.fdopen(os.memfd_create("video"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    with content.getbuffer() as view:
        file.write(view)
    file.flush()
    return file
