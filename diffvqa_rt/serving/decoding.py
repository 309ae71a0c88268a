"""Videos from strangers are decoded in a process of their own, which may die of them."""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.config import VIEWS, DiffVQAConfig
from diffvqa_rt.errors import ScoreWarning, VideoDecodeError
from diffvqa_rt.serving.framing import read_message, write_message
from diffvqa_rt.serving.settings import RequestLimits
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.plan import DecodingPlan
from diffvqa_rt.video.views import ViewCutter

_PIPE_BYTES = 1 << 20
# No secrets of the server's.
_WORKER_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """A video's views [crops, 2N, 3, S, S] in pixels, when they are shown, its facts, how long decoding took.

    And what it warned of.
    """

    views: NDArray[np.uint8]
    timestamps_seconds: tuple[float, ...]
    info: VideoInfo
    decode_seconds: float
    warnings: tuple[ScoreWarning, ...] = ()


class _ProcessEndedError(Exception):
    """The decoder's process has ended, by the signal or with the status that this says."""


class Decoder:
    """Decodes one video at a time in a process with limits; where that dies, the next video finds a new one."""

    def __init__(
        self, config: DiffVQAConfig, limits: RequestLimits, python: str, cutter: ViewCutter = "pillow"
    ) -> None:
        """A decoder in a process of the interpreter `python`.

        Args:
            config: what the network takes.
            limits: of each video.
            cutter: whose operators make the views; DALI's, where its decoders on a GPU make those of other videos.
        """
        self._config = config
        self._cutter = cutter
        self._limits = limits
        self._python = python
        self._process = self._start()

    def decode(
        self, video: bytes | memoryview, seed: int, crops: int, *, keep_interlaced: bool = False
    ) -> DecodedVideo:
        """The views of an encoded video; `keep_interlaced` leaves its interlaced frames combed.

        Raises:
            VideoDecodeError: no frame of it can be had, or not within the limits.
            ValueError: the seed or the crops are out of range.
        """
        request = self._request(video, "views", crops) | {"seed": seed, "keep_interlaced": keep_interlaced}
        size = self._config.view_size
        views = np.empty((max(crops, 1), len(VIEWS) * self._config.frames, 3, size, size), np.uint8)
        answer = self._answer(request, video, views)
        return DecodedVideo(
            views,
            tuple(answer["timestamps_seconds"]),
            VideoInfo(**answer["info"]),
            answer["decode_seconds"],
            tuple(ScoreWarning(**warning) for warning in answer["warnings"]),
        )

    def plan(self, video: bytes | memoryview, crops: int) -> DecodingPlan | None:
        """How a GPU is to decode the video; None if it is not for a GPU.

        Raises:
            VideoDecodeError, ValueError: as `decode`.
        """
        answer = self._answer(self._request(video, "plan", crops), video, np.empty(0, np.uint8))
        if answer["plan"] is None:
            return None
        return DecodingPlan.from_dict(bytes(video), answer["plan"])

    def _request(self, video: bytes | memoryview, task: str, crops: int) -> dict[str, Any]:
        limits = self._limits
        if len(video) > limits.max_request_bytes:
            raise VideoDecodeError(
                f"<bytes> is {len(video):,} bytes long, and this server takes at most {limits.max_request_bytes:,}"
            )
        if crops > limits.max_crops:
            raise ValueError(f"crops is {crops}; this server takes at most {limits.max_crops}")
        return {
            "task": task,
            "cutter": self._cutter,
            "crops": crops,
            "frames": self._config.frames,
            "view_size": self._config.view_size,
            "max_decode_seconds": limits.max_decode_seconds,
            "max_decode_memory_bytes": limits.max_decode_memory_bytes,
            "max_frames": limits.max_frames,
            "max_frame_pixels": limits.max_frame_pixels,
        }

    def _answer(self, request: dict[str, Any], video: bytes | memoryview, views: NDArray[np.uint8]) -> dict[str, Any]:
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
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, request: dict[str, Any], video: bytes | memoryview, views: NDArray[np.uint8]) -> dict[str, Any]:
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
        environment = {name: os.environ[name] for name in _WORKER_ENVIRONMENT if name in os.environ}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=environment)
        for pipe in (process.stdin, process.stdout):
            _widen(pipe)
        return process


def _widen(pipe: IO[bytes] | None) -> None:
    """Fewer turns between the two processes; where the system gives no more, the pipe stays as it is."""
    assert pipe is not None
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
