"""The decoder's process: videos in on the socket that is its standard input, one after another.

Out goes what a metric's engines take, or frames; or, for a video that a GPU is to decode, the plan for that.

It may be killed at any time, and it kills itself: the kernel ends it when its time is over or its parent is gone, and
denies it memory above its limit. Numbers and text cross its border as JSON and pixels as plain bytes: what a decoder
that a video has taken over hands back is data. It is the same user all the same; a container is what holds that.
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import resource
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from diffvqa_rt.decoding.framing import ErrorKind, Message, receive_message, send_message
from diffvqa_rt.errors import DeviceDecodeError, DiffVQAError, InputError, VideoDecodeError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.registry import metric_named
from diffvqa_rt.preparation import PreparedSource, prepare_frames
from diffvqa_rt.video import SampledFrames, sample_frames
from diffvqa_rt.video.container import MAX_FRAME_PIXELS, OpenFile, open_source, open_video
from diffvqa_rt.video.plan import plan_decoding
from diffvqa_rt.video.sequence import OpenFolder, declared_sequence
from diffvqa_rt.video.stills import declared_size

Source = OpenFile | OpenFolder
Answer = tuple[dict[str, Any], Sequence[memoryview]]


def main() -> None:
    connection = socket.socket(fileno=os.dup(0))
    # As whoever started this process left them, they might be ignored.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGALRM, signal.SIGIO):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _silence()
    # Where nobody is there any more, there is nobody to tell.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        send_message(connection, {"ready": True})
        while (message := receive_message(connection, takes_file=True)) is not None:
            answer, payload = _answer(connection, message)
            send_message(connection, answer, payload)
            if answer.get("kind") == "memory":
                # What is left in pieces could be too little for the next video: a new process has it whole.
                break
    os._exit(0)


def _silence() -> None:
    """Whatever libraries have to say of a file goes nowhere: its error goes into the answer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _answer(connection: socket.socket, message: Message) -> Answer:
    request = message.values
    name = request["name"]
    _limit_memory(request["max_decode_memory_bytes"])
    assert message.file is not None
    with (
        _received(name, message.file) as source,
        _ended_with_its_parent(connection),
        _ended_in_time(request["max_decode_seconds"]),
    ):
        try:
            return _TASKS[request["task"]](source, request)
        except MemoryError:
            limit = request["max_decode_memory_bytes"]
            return _failure("memory", f"{name} takes more than {limit >> 20:,} MiB to decode; scale it down")
        except VideoDecodeError as error:
            return _failure("video", str(error))
        except InputError as error:
            return _failure("input", str(error))
        except Exception as error:  # a fault of ours: the answer says so, and the next file is decoded
            return _failure("fault", f"{name} met a fault of the decoder's process ({type(error).__name__}: {error})")


@contextlib.contextmanager
def _received(name: str, number: int) -> Iterator[Source]:
    """The source that came as this number."""
    if stat.S_ISDIR(os.fstat(number).st_mode):
        try:
            yield OpenFolder(name, number)
        finally:
            os.close(number)
    else:
        with os.fdopen(number, "rb") as file:
            yield OpenFile(name, file)


def _failure(kind: ErrorKind, sentence: str) -> Answer:
    return {"error": sentence, "kind": kind}, ()


@functools.cache
def _limit_memory(limit: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    least = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (least, least))


@contextlib.contextmanager
def _ended_in_time(seconds: float) -> Iterator[None]:
    """For when the process that waits is gone or does not look: it ends this one a second earlier."""
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def _ended_with_its_parent(connection: socket.socket) -> Iterator[None]:
    """Asks for SIGIO, which ends a process, when the other end closes; nothing comes from there while it waits."""
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(connection, fcntl.F_SETFL, flags)


def _prepare(source: Source, request: dict[str, Any]) -> Answer:
    metric = metric_named(request["metric"])
    config, asked = metric.config_from_dict(request["config"]), Request(**request["request"])
    sampled, decode_seconds = _sample(
        source,
        request,
        metric.frame_count(config, asked),
        metric.animation_frame_count(config, asked),
        asked.keep_interlaced,
    )
    prepared = prepare_frames(sampled, metric, config, asked, decode_seconds)
    answer = _facts(prepared) | {
        "crop_regions": prepared.crop_regions,
        "rows": [len(prepared.arrays[spec.name]) for spec in metric.inputs(config)],
        "decode_seconds": prepared.decode_seconds,
        "views_seconds": prepared.views_seconds,
    }
    arrays = (prepared.arrays[spec.name] for spec in metric.inputs(config))
    return answer, [np.ascontiguousarray(array).data.cast("B") for array in arrays]


def _frames(source: Source, request: dict[str, Any]) -> Answer:
    """All frames, those that are one in memory once."""
    sampled, _ = _sample(source, request, request["frames"], request["frames"], request["keep_interlaced"])
    distinct = {id(frame): frame for frame in sampled.frames}
    order = list(distinct)
    answer = _facts(sampled) | {
        "numbers": [order.index(id(frame)) for frame in sampled.frames],
        "shapes": [frame.shape for frame in distinct.values()],
    }
    return answer, [np.ascontiguousarray(frame).data.cast("B") for frame in distinct.values()]


def _sample(
    source: Source, request: dict[str, Any], count: int, animation_count: int, keep_interlaced: bool
) -> tuple[SampledFrames, float]:
    start = time.perf_counter()
    with _blamed_on_the_video(source.name):
        _refuse_by_header(source, request, count)
        sampled = sample_frames(source, count, animation_count=animation_count, keep_interlaced=keep_interlaced)
    seconds = time.perf_counter() - start
    largest = max(frame.shape[0] * frame.shape[1] for frame in sampled.frames)
    _refuse_beyond(request, largest, sampled.info.frame_count)
    return sampled, seconds


@contextlib.contextmanager
def _blamed_on_the_video(name: str) -> Iterator[None]:
    """Turns what a codec's library raises into a VideoDecodeError; a fault of ours counts too, met by this file alone.

    Where a file is read, the two cannot be told apart.
    """
    try:
        yield
    except (DiffVQAError, MemoryError):
        raise
    except Exception as error:  # codecs' libraries raise what they like
        raise VideoDecodeError(
            f"{name} cannot be decoded ({type(error).__name__}: {error}); check that it is undamaged"
        ) from error


def _facts(sampled: SampledFrames | PreparedSource) -> dict[str, Any]:
    return {
        "timestamps_seconds": sampled.timestamps_seconds,
        "info": dataclasses.asdict(sampled.info),
        "warnings": [dataclasses.asdict(warning) for warning in sampled.warnings],
    }


def _plan(source: Source, request: dict[str, Any]) -> Answer:
    metric = metric_named(request["metric"])
    config, asked = metric.config_from_dict(request["config"]), Request(**request["request"])
    count = metric.frame_count(config, asked)
    assert isinstance(source, OpenFile) and metric.on_device is not None
    try:
        with _blamed_on_the_video(source.name):
            _refuse_by_header(source, request, count)
            source.file.seek(0)
            plan = plan_decoding(source.file.read(), count)
            _refuse_beyond(request, plan.info.width * plan.info.height, plan.info.frame_count)
            asked = metric.settle(config, asked, len(plan.timestamps_seconds))
            regions = metric.on_device.crop_regions(config, plan, asked)
    except DeviceDecodeError:
        return {"plan": None}, ()
    return {"plan": plan.as_dict(), "crop_regions": regions}, ()


_TASKS: dict[str, Callable[[Source, dict[str, Any]], Answer]] = {
    "prepare": _prepare,
    "frames": _frames,
    "plan": _plan,
}


def _refuse_by_header(source: Source, request: dict[str, Any], count: int) -> None:
    """Refuses a video whose header exceeds the limits, before decoding it; `_refuse_beyond` checks the decoded size."""
    if request["max_frames"] is None and request["max_frame_pixels"] >= MAX_FRAME_PIXELS:
        return
    try:
        declared = declared_sequence(source, count) if isinstance(source, OpenFolder) else _declared(source)
    except VideoDecodeError:  # the decoding itself has the sentence for that
        return
    _refuse_beyond(request, *declared)


def _declared(source: OpenFile) -> tuple[int, int]:
    with open_source(source) as (name, file):
        if (size := declared_size(name, file)) is not None:
            return size
        with open_video(name, file) as opened:
            return opened.stream.width * opened.stream.height, opened.stream.frames


def _refuse_beyond(request: dict[str, Any], pixels: int, frames: int) -> None:
    for what, found, limit in [
        ("pixels a picture", pixels, request["max_frame_pixels"]),
        ("frames", frames, request["max_frames"]),
    ]:
        if limit is not None and found > limit:
            raise VideoDecodeError(
                f"{request['name']} has {found:,} {what}, and {request['taker']} takes at most {limit:,}"
            )


if __name__ == "__main__":
    main()
