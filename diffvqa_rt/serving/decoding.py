"""Videos from strangers are decoded in a process of their own, which may die of them."""

import contextlib
import fcntl
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.config import VIEWS, DiffVQAConfig
from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.serving.framing import read_message, write_message
from diffvqa_rt.serving.settings import RequestLimits
from diffvqa_rt.video import VideoInfo

_PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """A video's views [crops, 2N, 3, S, S], when they are shown, its facts, and the seconds of `decode` and `views`."""

    views: NDArray[np.float32]
    timestamps_seconds: tuple[float, ...]
    info: VideoInfo
    stage_seconds: dict[str, float]


class _ProcessEndedError(Exception):
    """The decoder's process has ended, by the signal or with the status that this says."""


class Decoder:
    """Decodes one video at a time in a process with limits; where that dies, the next video finds a new one."""

    def __init__(self, config: DiffVQAConfig, limits: RequestLimits, python: str) -> None:
        self._config = config
        self._limits = limits
        self._python = python
        self._process = self._start()

    def decode(self, video: bytes | memoryview, seed: int, crops: int) -> DecodedVideo:
        """The views of an encoded video.

        Raises:
            VideoDecodeError: no frame of it can be had, or not within the limits.
            ValueError: the seed or the crops are out of range.
        """
        limits = self._limits
        if len(video) > limits.max_request_bytes:
            raise VideoDecodeError(
                f"<bytes> is {len(video):,} bytes long, and this server takes at most {limits.max_request_bytes:,}"
            )
        if crops > limits.max_crops:
            raise ValueError(f"crops is {crops}; this server takes at most {limits.max_crops}")
        request = {
            "seed": seed,
            "crops": crops,
            "frames": self._config.frames,
            "view_size": self._config.view_size,
            "max_decode_seconds": limits.max_decode_seconds,
            "max_decode_memory_bytes": limits.max_decode_memory_bytes,
            "max_frames": limits.max_frames,
            "max_frame_pixels": limits.max_frame_pixels,
        }
        size = self._config.view_size
        views = np.empty((max(crops, 1), len(VIEWS) * self._config.frames, 3, size, size), np.float32)
        try:
            answer = self._ask(request, video, views)
        except _ProcessEndedError:
            try:  # once more: whoever ended it may have meant something else
                answer = self._ask(request, video, views)
            except _ProcessEndedError as error:
                raise VideoDecodeError(f"<bytes> ended the decoder's process ({error}); check the file") from error
        if "error" in answer:
            # `<bytes>` begins a sentence about the video; the others are about the arguments.
            sentence = str(answer["error"])
            raise VideoDecodeError(sentence) if sentence.startswith("<bytes>") else ValueError(sentence)
        return DecodedVideo(
            views, tuple(answer["timestamps_seconds"]), VideoInfo(**answer["info"]), dict(answer["stage_seconds"])
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, request: dict[str, Any], video: bytes | memoryview, views: NDArray[np.float32]) -> dict[str, Any]:
        def expected(size: int) -> memoryview:
            if size not in (0, views.nbytes):
                raise ValueError(f"{size} bytes of views; expected {views.nbytes}")
            return views.data.cast("B")[:size]

        process, start = self._process, time.monotonic()
        timer = threading.Timer(self._limits.max_decode_seconds, process.kill)
        timer.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            write_message(process.stdin, request, video)
            message = read_message(process.stdout, expected)
            if message is None:
                raise EOFError
            answer, payload = message
            if "error" not in answer and len(payload) != views.nbytes:
                raise ValueError("an answer without views")
            return answer
        except (OSError, EOFError, ValueError) as error:
            process.kill()
            status = process.wait()
            self._process = self._start()
            if time.monotonic() - start >= self._limits.max_decode_seconds:
                raise VideoDecodeError(
                    f"<bytes> takes longer than {self._limits.max_decode_seconds:g} s to decode; "
                    "shorten it or scale it down"
                ) from error
            reason = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            raise _ProcessEndedError(reason) from error
        finally:
            timer.cancel()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [self._python, "-m", "diffvqa_rt.serving.decode_worker"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
        for pipe in (process.stdin, process.stdout):
            _widen(pipe)
        return process


def _widen(pipe: IO[bytes] | None) -> None:
    """Fewer turns between the two processes; where the system gives no more, the pipe stays as it is."""
    assert pipe is not None
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
