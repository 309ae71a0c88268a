"""Scoring videos on a server, over gRPC: what comes back is what `Scorer` gives on the server's machine."""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import DiffVQAError, VideoDecodeError
from diffvqa_rt.results import STAGES, ModelFacts, ScoringFailure, VideoScore, video_score
from diffvqa_rt.scoring import VideoSource, source_name
from diffvqa_rt.serving.settings import require_pem
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.container import open_source

_MODEL = "diffvqa"
_IN_ENSEMBLE = f"in ensemble '{_MODEL}', "
_MAX_MESSAGE_BYTES = 2**31 - 1
_ROOM_FOR_THE_REST_BYTES = 1 << 16
_STUB_ENDED, _MOST_DEATHS = "Stub process", 3
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0
# A server that was restarted is found again within a second; gRPC alone would wait for up to two minutes.
_CHANNEL = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A name that stands for several servers means all of them.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class RequestError(DiffVQAError):
    """A server gave no score for a reason that is not the video's: unreachable, too slow, or at fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientTls:
    """PEM files: the authority that the server's certificate is from, and our own certificate where it asks for one."""

    ca: Path | None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        require_pem("the authority of the server's certificate", self.ca)
        if self.cert is not None or self.key is not None:
            require_pem("the client's certificate", self.cert)
            require_pem("the key of the client's certificate", self.key)


class Client:
    """Scores videos on the server at `url`; several at a time, and one that is away for a moment is asked again.

    with Client("localhost:8001") as client:
        print(client.score("clip.mp4").score)
    """

    def __init__(
        self, url: str, *, concurrency: int = 4, deadline_seconds: float = 300.0, tls: ClientTls | None = None
    ) -> None:
        """Connects with the first request.

        Args:
            url: host:port of its gRPC.
            concurrency: how many videos `score_many` has under way.
            deadline_seconds: for each video, attempts and pauses included.
            tls: certificates; in the clear without.

        Raises:
            ValueError: a number is out of range.
            RequestError: tritonclient is not installed.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; expected at least 1")
        if not deadline_seconds > 0:
            raise ValueError(f"deadline_seconds is {deadline_seconds}; expected a number above 0")
        try:
            import tritonclient.grpc
        except ModuleNotFoundError as error:
            raise RequestError(
                f"the client needs {error.name}, which is not installed: pip install 'diffvqa-rt[serve]'"
            ) from error
        self.url = url
        self._grpc = tritonclient.grpc
        self._concurrency = concurrency
        self._deadline_seconds = deadline_seconds
        self._tls = tls
        self._pool = ThreadPoolExecutor(concurrency)
        # Triton's client is for one thread.
        self._local = threading.local()

    def score(self, source: VideoSource, *, seed: int = 0, crops: int = 1) -> VideoScore:
        """The score of one video: a path on this machine, or an encoded video's bytes.

        Args:
            source: the video.
            seed: where the distortion view is cropped; the same seed gives the same score.
            crops: how many crop positions to score; the result is their mean, with their spread beside it.

        Raises:
            VideoDecodeError: no frame of the video can be had, or it is beyond the server's limits.
            RequestError: no answer within the deadline, or the server failed.
            ValueError, TypeError: the seed or the crops are out of range, or the source is of another kind.
        """
        arrays = self._ask(source_name(source), _request(self._grpc, source, seed, crops))
        facts = _json(arrays["model"])
        return video_score(
            {name: arrays[name] for name in ("score", "frame_scores", "frame_weights")},
            source=source_name(source),
            seed=seed,
            timestamps_seconds=tuple(arrays["timestamps_seconds"].tolist()),
            info=VideoInfo(**_json(arrays["video_info"])),
            stage_seconds=dict(zip(STAGES, arrays["stage_seconds"].tolist(), strict=True)),
            facts=ModelFacts(**{**facts, "score_range": tuple(facts["score_range"])}),
        )

    def score_many(
        self, sources: Iterable[VideoSource], *, seed: int = 0, crops: int = 1
    ) -> Iterator[VideoScore | ScoringFailure]:
        """The scores of many videos in their order, `concurrency` of them at a time.

        A video that cannot be scored gives a `ScoringFailure` in its place; the others are not affected.

        Raises:
            ValueError: the seed or the crops are out of range.
        """
        under_way: deque[Future[VideoScore | ScoringFailure]] = deque()
        try:
            for source in sources:
                under_way.append(self._pool.submit(self._score_or_failure, source, seed, crops))
                if len(under_way) > self._concurrency:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def is_ready(self) -> bool:
        """Whether the server is there, with every engine verified and loaded."""
        try:
            return self._connection().is_server_ready(client_timeout=5)
        except self._grpc.InferenceServerException:
            return False

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _score_or_failure(self, source: VideoSource, seed: int, crops: int) -> VideoScore | ScoringFailure:
        try:
            return self.score(source, seed=seed, crops=crops)
        except (DiffVQAError, TypeError) as error:
            return ScoringFailure(source=source_name(source), error=str(error))

    def _connection(self) -> Any:
        if not hasattr(self._local, "connection"):
            options: dict[str, Any] = {}
            if self._tls:
                options = {
                    "ssl": True,
                    "root_certificates": str(self._tls.ca),
                    "certificate_chain": str(self._tls.cert) if self._tls.cert else None,
                    "private_key": str(self._tls.key) if self._tls.key else None,
                }
            self._local.connection = self._grpc.InferenceServerClient(self.url, channel_args=_CHANNEL, **options)
        return self._local.connection

    def _ask(self, name: str, inputs: list[Any]) -> dict[str, NDArray]:
        """The ensemble's outputs. Asks again, with growing pauses, while the server is away."""
        deadline = time.monotonic() + self._deadline_seconds
        deaths = 0
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                remaining = max(deadline - time.monotonic(), 0.001)
                result = self._connection().infer(_MODEL, inputs, client_timeout=remaining)
                return {tensor.name: result.as_numpy(tensor.name) for tensor in result.get_response().outputs}
            except self._grpc.InferenceServerException as error:
                status, message = _reason(error)
                if status == "INVALID_ARGUMENT":
                    if message.startswith("<bytes>"):
                        raise VideoDecodeError(name + message.removeprefix("<bytes>")) from None
                    raise ValueError(message) from None
                # It may be this very video that ends the process it is in.
                deaths += _STUB_ENDED in message
                if deaths > _MOST_DEATHS:
                    raise RequestError(
                        f"{name}: a process of {self.url} has ended {deaths} times with it inside; check the file"
                    ) from error
                is_over = time.monotonic() + pause > deadline
                if status == "DEADLINE_EXCEEDED" or (status == "UNAVAILABLE" and is_over):
                    raise RequestError(
                        f"{name}: {self.url} gave no score within {self._deadline_seconds:g} s ({message}); see that "
                        "the server is up, or allow more time"
                    ) from error
                if status != "UNAVAILABLE":
                    raise RequestError(f"{name}: {self.url} failed ({status}: {message})") from error
            # Not all clients at once.
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _reason(error: Any) -> tuple[str, str]:
    """The gRPC status' name and the message of one of tritonclient's exceptions."""
    status = str(error.status() or "UNKNOWN").removeprefix("StatusCode.")
    message = str(error.message()).removeprefix(_IN_ENSEMBLE)
    # A model's process was killed with the request in it, or the server is about to end: it will be started again, and
    # scoring can be repeated.
    if _STUB_ENDED in message or "has no available versions" in message:
        status = "UNAVAILABLE"
    return status, message


def _request(grpc: Any, source: VideoSource, seed: int, crops: int) -> list[Any]:
    if isinstance(source, np.ndarray):
        raise TypeError("source is an array; over gRPC goes an encoded video, as a path or bytes")
    with open_source(source) as (name, file):
        video = np.frombuffer(file.read(), np.uint8)
    if len(video) > _MAX_MESSAGE_BYTES - _ROOM_FOR_THE_REST_BYTES:
        raise VideoDecodeError(f"{name} is {len(video):,} bytes long, more than gRPC takes; score it in-process")
    inputs = []
    for tensor, array, datatype in [
        ("video", video, "UINT8"),
        ("seed", _whole(seed, "seed", np.int64), "INT64"),
        ("crops", _whole(crops, "crops", np.int32), "INT32"),
    ]:
        inputs.append(grpc.InferInput(tensor, array.shape, datatype).set_data_from_numpy(array))
    return inputs


def _whole(value: int, name: str, dtype: type[np.signedinteger]) -> NDArray:
    if not isinstance(value, int) or not 0 <= value <= np.iinfo(dtype).max:
        raise ValueError(f"{name} is {value!r}; expected a whole number from 0 to {np.iinfo(dtype).max}")
    return np.array([value], dtype)


def _json(array: NDArray[np.uint8]) -> dict[str, Any]:
    return json.loads(array.tobytes())
