"""The decoder's process: encoded bytes in on standard input, views out on standard output, one video after another.

It may be killed at any time, and it kills itself: the kernel ends it when its time is over, and denies it memory above
its limit. Numbers and text cross its border as JSON and pixels as plain bytes, so that a decoder that a video has taken
over can hand nothing to the server that runs.
"""

import dataclasses
import os
import resource
import signal
import sys
from typing import Any

from numpy.typing import NDArray

from diffvqa_rt.errors import DiffVQAError, VideoDecodeError
from diffvqa_rt.scoring import StageClock
from diffvqa_rt.serving.framing import read_message, write_message
from diffvqa_rt.video import make_views, sample_frames
from diffvqa_rt.video.container import open_source, open_video


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not end up among the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    is_memory_limited = False
    while (message := read_message(sys.stdin.buffer)) is not None:
        request, video = message
        if not is_memory_limited:
            limit = request["max_decode_memory_bytes"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            is_memory_limited = True
        # For when the process that waits is gone; it would have ended this one a second earlier.
        signal.setitimer(signal.ITIMER_REAL, request["max_decode_seconds"] + 1)
        try:
            answer, views = _prepare(bytes(video), request)
        except MemoryError:
            limit = request["max_decode_memory_bytes"]
            answer, views = {"error": f"<bytes> takes more than {limit >> 20:,} MiB to decode; scale it down"}, None
        except (DiffVQAError, TypeError, ValueError) as error:
            answer, views = {"error": str(error)}, None
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            write_message(answers, answer, b"" if views is None else views.data.cast("B"))
        except BrokenPipeError:  # nobody is there to wait for it any more
            os._exit(0)


def _prepare(video: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], NDArray]:
    clock = StageClock()
    with clock.measure("decode"):
        with open_source(video) as (name, file), open_video(name, file) as opened:
            # What the file says of itself, before anything is decoded; what it turns out to be, further down.
            _refuse_beyond(request, opened.stream.width * opened.stream.height, opened.stream.frames)
        sampled = sample_frames(video, request["frames"])
    largest = max(frame.shape[0] * frame.shape[1] for frame in sampled.frames)
    _refuse_beyond(request, largest, sampled.info.frame_count)
    with clock.measure("views"):
        views = make_views(sampled.frames, request["view_size"], request["seed"], request["crops"])
    answer = {
        "timestamps_seconds": sampled.timestamps_seconds,
        "info": dataclasses.asdict(sampled.info),
        "stage_seconds": clock.seconds,
    }
    return answer, views


def _refuse_beyond(request: dict[str, Any], pixels: int, frames: int) -> None:
    for what, found, limit in [
        ("pixels a picture", pixels, request["max_frame_pixels"]),
        ("frames", frames, request["max_frames"]),
    ]:
        if found > limit:
            raise VideoDecodeError(f"<bytes> has {found:,} {what}, and this server takes at most {limit:,}")


if __name__ == "__main__":
    main()
