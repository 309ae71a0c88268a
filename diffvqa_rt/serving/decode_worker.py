"""The decoder's process: encoded bytes in on standard input, views out on standard output, one video after another.

Or, for a video that a GPU is to decode, the plan for that.

It may be killed at any time, and it kills itself: the kernel ends it when its time is over, and denies it memory above
its limit. Numbers and text cross its border as JSON and pixels as plain bytes: what a decoder that a video has taken
over hands to the server is data. It is the server's user all the same; a container is what holds that.
"""

import dataclasses
import functools
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from diffvqa_rt.errors import DeviceDecodeError, DiffVQAError, VideoDecodeError
from diffvqa_rt.serving.framing import read_message, write_message
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.container import open_source, open_video
from diffvqa_rt.video.plan import plan_decoding
from diffvqa_rt.video.views import cut_views

# A thread takes address space, which is limited, and a video has eight frames.
_DALI_THREADS = 4


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not end up among the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    is_memory_limited = is_exhausted = False
    while (message := read_message(sys.stdin.buffer)) is not None:
        request, video = message
        if not is_memory_limited:
            limit = request["max_decode_memory_bytes"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            is_memory_limited = True
        # For when the process that waits is gone; it would have ended this one a second earlier.
        signal.setitimer(signal.ITIMER_REAL, request["max_decode_seconds"] + 1)
        try:
            answer, views = _TASKS[request["task"]](bytes(video), request)
        except MemoryError:
            limit = request["max_decode_memory_bytes"]
            answer, views = {"error": f"<bytes> takes more than {limit >> 20:,} MiB to decode; scale it down"}, None
            is_exhausted = True
        except (DiffVQAError, TypeError, ValueError) as error:
            answer, views = {"error": str(error)}, None
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            write_message(answers, answer, b"" if views is None else views.data.cast("B"))
        except BrokenPipeError:  # nobody is there to wait for it any more
            os._exit(0)
        if is_exhausted:  # what is left in pieces could be too little for the next video: a new process has it whole
            return


def _views(video: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], NDArray]:
    start = time.perf_counter()
    _refuse_by_header(video, request)
    sampled = sample_frames(video, request["frames"], keep_interlaced=request["keep_interlaced"])
    decode_seconds = time.perf_counter() - start
    largest = max(frame.shape[0] * frame.shape[1] for frame in sampled.frames)
    _refuse_beyond(request, largest, sampled.info.frame_count)
    size, seed, crops = request["view_size"], request["seed"], request["crops"]
    if request["cutter"] == "dali":
        views = _dali_views(size).cut(sampled.frames, seed, crops)
    else:
        views = cut_views(sampled.frames, size, seed, crops)
    answer = {
        "timestamps_seconds": sampled.timestamps_seconds,
        "info": dataclasses.asdict(sampled.info),
        "decode_seconds": decode_seconds,
        "warnings": [dataclasses.asdict(warning) for warning in sampled.warnings],
    }
    return answer, views


@functools.cache
def _dali_views(size: int) -> Any:
    from diffvqa_rt.video.dali import DaliViews  # DALI, which only the production form needs

    return DaliViews(size, threads=_DALI_THREADS)


def _plan(video: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], None]:
    _refuse_by_header(video, request)
    try:
        plan = plan_decoding(video, request["frames"])
    except DeviceDecodeError:
        return {"plan": None}, None
    _refuse_beyond(request, plan.info.width * plan.info.height, plan.info.frame_count)
    return {"plan": plan.as_dict()}, None


_TASKS: dict[str, Callable[[bytes, dict[str, Any]], tuple[dict[str, Any], NDArray | None]]] = {
    "views": _views,
    "plan": _plan,
}


def _refuse_by_header(video: bytes, request: dict[str, Any]) -> None:
    """By what the file says of itself, before it is read whole; what it turns out to be comes later."""
    with open_source(video) as (name, file), open_video(name, file) as opened:
        _refuse_beyond(request, opened.stream.width * opened.stream.height, opened.stream.frames)


def _refuse_beyond(request: dict[str, Any], pixels: int, frames: int) -> None:
    for what, found, limit in [
        ("pixels a picture", pixels, request["max_frame_pixels"]),
        ("frames", frames, request["max_frames"]),
    ]:
        if found > limit:
            raise VideoDecodeError(f"<bytes> has {found:,} {what}, and this server takes at most {limit:,}")


if __name__ == "__main__":
    main()
