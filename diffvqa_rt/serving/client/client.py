"""Scoring videos on a server, over gRPC: what comes back is what `Scorer` gives on the server's machine."""

import dataclasses
import math
import numbers
import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.checks import whole
from diffvqa_rt.errors import DiffVQAError, InputError, VideoDecodeError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.registry import DEFAULT, metric_named
from diffvqa_rt.results import ScoringFailure, VideoScore
from diffvqa_rt.serving.client.address import ServerAddress
from diffvqa_rt.serving.client.answers import AnswerError, score_from_answer
from diffvqa_rt.serving.client.diagnosis import NOT_GRPC, obstacle_at
from diffvqa_rt.serving.client.request import MAX_MESSAGE_BYTES, encoded_video, request_tensors
from diffvqa_rt.serving.client.tls import ClientTls
from diffvqa_rt.serving.client.waiter import Waiter
from diffvqa_rt.sources import Prompts, VideoSource, pairs_of, several, source_name

Result = VideoScore | ScoringFailure

_IN_ENSEMBLE = re.compile("in ensemble '[^']*', ")
_STUB_ENDED, _MOST_DEATHS = "Stub process", 3
_NO_VERSIONS = "has no available versions"
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0
_LONGEST_DEADLINE_SECONDS = 2**31
# A name may be missing for a moment, while a server is put up; one that is misspelt is missing for good.
_NAME_SECONDS = 5.0
_UNRESOLVED = re.compile("errors resolving|DNS resolution failed|address lookup failed")
# By way of a proxy only gRPC sees the server.
_WRONG_BEHIND_PROXY = re.compile(r"Failed parsing HTTP/2|http1\.x server|HTTP proxy returned response code 4\d\d")
# A server that was restarted is found again within a second; gRPC alone would wait for up to two minutes.
_CHANNEL: list[tuple[str, str | int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A name that stands for several servers means all of them.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
# An environment's proxy is for the way to other machines.
_NO_PROXY: tuple[str, int] = ("grpc.enable_http_proxy", 0)


class RequestError(DiffVQAError):
    """A server gave no score for a reason that is not the video's: unreachable, too slow, or at fault."""


class Client:
    """Scores videos on the server at `url`; several at a time, and one that is away for a moment is asked again.

    with Client("localhost:8001") as client:
        print(client.score("clip.mp4").score)

    Leaving the block, by an exception too, cancels what is under way, here and on the server.
    """

    def __init__(
        self,
        url: str,
        *,
        metric: str = DEFAULT,
        concurrency: int = 4,
        deadline_seconds: float = 300.0,
        tls: ClientTls | None = None,
    ) -> None:
        """Connects with the first request.

        Args:
            url: HOST:PORT of its gRPC. An environment's proxy is for other machines: this one is reached directly.
            metric: the name of the metric that the server is to score by.
            concurrency: how many videos `score_many` has under way.
            deadline_seconds: for each video, attempts and pauses included.
            tls: certificates; in the clear without.

        Raises:
            ValueError, TypeError: `url` is no address, there is no such metric, or a number is none or out of range.
            RequestError: tritonclient is not installed.
        """
        self._address = ServerAddress.parse(url)
        self._metric = metric_named(metric)
        self._concurrency = whole("concurrency", concurrency, 1)
        self._deadline_seconds = _deadline(deadline_seconds)
        try:
            import tritonclient.grpc
        except ModuleNotFoundError as error:
            raise RequestError(needs_package("the client", error.name, "serve")) from error
        self.url = url
        self._grpc = tritonclient.grpc
        self._tls = tls
        self._channel = [*_CHANNEL, _NO_PROXY] if self._address.is_loopback else _CHANNEL
        self._lock = threading.Lock()
        self._waiters: set[Waiter] = set()
        # Not one for all: their videos would share one stream of bytes.
        self._idle_connections: deque[Any] = deque()
        self._is_closed = False

    def score(
        self,
        source: VideoSource,
        *,
        prompt: str | None = None,
        seed: int = 0,
        crops: int | None = None,
        frames: int | None = None,
        patch_maps: bool = False,
        keep_interlaced: bool = False,
    ) -> VideoScore:
        """The score of one video: a path on this machine, or an encoded video's bytes.

        Args:
            source: the video.
            prompt, seed, crops, frames, patch_maps: as of `Scorer.score`.
            keep_interlaced: leave interlaced frames combed, as they are stored, in place of deinterlacing them.

        Raises:
            VideoDecodeError: no frame of the video can be had, or it is beyond the server's limits.
            RequestError: no answer within the deadline, the server failed, or `close` was called meanwhile.
            InputError: an option is out of range, here or for the server, or the metric does not have it.
            TypeError: the source is of another kind.
        """
        request = self._request(
            prompt=prompt,
            seed=seed,
            crops=crops,
            frames=frames,
            patch_maps=patch_maps,
            keep_interlaced=keep_interlaced,
        )
        with self._waiter() as waiter:
            return self._ask(waiter, source_name(source), encoded_video(source), request)

    def score_many(
        self,
        sources: Iterable[VideoSource],
        *,
        prompts: Iterable[Prompts] | None = None,
        seed: int = 0,
        crops: int | None = None,
        frames: int | None = None,
        patch_maps: bool = False,
        keep_interlaced: bool = False,
    ) -> Iterator[VideoScore | ScoringFailure]:
        """The scores of many videos in their order, `concurrency` of them at a time.

        A video that cannot be scored gives a `ScoringFailure` in its place; the others are not affected. Closing the
        iterator cancels those that are under way.

        Args:
            prompts: for each source its prompt, or None, or several, each of which has a result of its own.

        Raises:
            InputError: an option is out of range, here or for the server, or the metric does not have it.
            ValueError: there are more prompts than sources, or fewer.
            TypeError: `sources` is a single video.
        """
        request = self._request(
            seed=seed, crops=crops, frames=frames, patch_maps=patch_maps, keep_interlaced=keep_interlaced
        )
        under_way: deque[Future[Result]] = deque()
        pairs = ((source, prompt) for source, given in pairs_of(sources, prompts) for prompt in several(given))
        with self._waiter() as waiter:
            for source, prompt in pairs:
                done = under_way.popleft().result() if len(under_way) == self._concurrency else None
                under_way.append(self._begin(waiter, source, request, prompt))
                if done is not None:
                    yield done
            while under_way:
                yield under_way.popleft().result()

    def is_ready(self) -> bool:
        """True where the server is there, with every engine verified and loaded."""
        with self._connection() as connection:
            try:
                return connection.is_server_ready(client_timeout=5)
            except self._grpc.InferenceServerException:
                return False

    def close(self) -> None:
        """Cancels what is under way: its callers get a `RequestError`."""
        with self._lock:
            self._is_closed = True
            waiters = list(self._waiters)
        for waiter in waiters:
            waiter.leave()
        while self._idle_connections:
            self._idle_connections.pop().close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, **options: Any) -> Request:
        request = Request(**options)
        self._metric.check(request)
        return request

    @contextmanager
    def _waiter(self) -> Iterator[Waiter]:
        waiter = Waiter()
        with self._lock:
            if self._is_closed:
                raise RequestError(f"this client of {self.url} is closed; make another one")
            self._waiters.add(waiter)
        try:
            yield waiter
        finally:
            waiter.leave()
            with self._lock:
                self._waiters.discard(waiter)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection that nobody else uses meanwhile."""
        try:
            connection = self._idle_connections.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._idle_connections.append(connection)
            if self._is_closed:
                self.close()

    def _connect(self) -> Any:
        options: dict[str, Any] = {}
        if self._tls:
            options = {
                "ssl": True,
                "root_certificates": str(self._tls.ca),
                "certificate_chain": str(self._tls.cert) if self._tls.cert else None,
                "private_key": str(self._tls.key) if self._tls.key else None,
            }
        channel = self._channel
        if self._tls and self._tls.server_name:
            channel = [*channel, ("grpc.ssl_target_name_override", self._tls.server_name)]
        return self._grpc.InferenceServerClient(self._address.target, channel_args=channel, **options)

    def _begin(
        self, waiter: Waiter, source: VideoSource, request: Request, prompt: str | None
    ) -> "Future[VideoScore | ScoringFailure]":
        """Scores a video in a thread of its own, which holds up no end of the process: it may read from a pipe."""
        future: Future[Result] = Future()

        def score() -> None:
            try:
                future.set_result(self._score_or_failure(waiter, source, request, prompt))
            except BaseException as error:  # for whoever asks for the result
                future.set_exception(error)

        threading.Thread(target=score, name="diffvqa-client", daemon=True).start()
        return future

    def _score_or_failure(
        self, waiter: Waiter, source: VideoSource, request: Request, prompt: str | None
    ) -> VideoScore | ScoringFailure:
        name = source_name(source)
        try:
            if prompt is not None:
                request = dataclasses.replace(request, prompt=prompt)
                self._metric.check(request)
            video = encoded_video(source)
        except (DiffVQAError, TypeError, ValueError, OSError) as error:
            return ScoringFailure(source=name, error=str(error))
        try:
            return self._ask(waiter, name, video, request)
        except InputError:  # of the options, which all videos share
            raise
        except DiffVQAError as error:
            return ScoringFailure(source=name, error=str(error))

    def _ask(self, waiter: Waiter, name: str, video: NDArray[np.uint8], request: Request) -> VideoScore:
        """The result of a video. Asks again, with growing pauses, while the server is away."""
        inputs = request_tensors(self._grpc, video, request)
        ensemble = self._metric.choose(request)
        asked = time.monotonic()
        deadline = asked + self._deadline_seconds
        deaths = 0
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                tensors = self._infer(waiter, ensemble, inputs, max(deadline - time.monotonic(), 0.001))
                return score_from_answer(tensors, source=name, seed=request.seed, patch_maps=request.patch_maps)
            except AnswerError as error:
                raise RequestError(
                    f"{name}: {self.url} answered, but not as a server of diffvqa does ({error}); see that it is one, "
                    "of this client's version"
                ) from error
            except self._grpc.InferenceServerException as error:
                if waiter.has_left:
                    raise RequestError(f"{name}: the client was closed before {self.url} gave a score") from error
                status, message = _reason(error)
                self._raise_if_final(status, message, name, request)
                # This video may be what crashes the server's process.
                deaths += _STUB_ENDED in message
                if deaths > _MOST_DEATHS:
                    raise RequestError(
                        f"{name}: a process of {self.url} has ended {deaths} times with it inside; check the file"
                    ) from error
                now = time.monotonic()
                is_over = status == "DEADLINE_EXCEEDED" or now + pause > deadline
                may_be_found = not is_over and now < asked + _NAME_SECONDS
                if status == "UNAVAILABLE" and (obstacle := self._obstacle(error, message, may_be_found)):
                    raise RequestError(f"{name}: {self.url} {obstacle}") from error
                if is_over:
                    proxy = self._address.proxy()
                    raise RequestError(
                        f"{name}: {self.url}{f', asked by way of the proxy {proxy},' if proxy else ''} gave no score "
                        f"within {self._deadline_seconds:g} s ({message}); see that the server is up, or allow more "
                        "time"
                    ) from error
            # Not all clients at once.
            waiter.pause(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _infer(self, waiter: Waiter, ensemble: str, inputs: list[Any], seconds: float) -> dict[str, NDArray | None]:
        """The ensemble's outputs. Raises tritonclient's exception, of a call that was cancelled too."""
        answers: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        with self._connection() as connection:
            call = connection.async_infer(
                ensemble,
                inputs,
                lambda result, error: answers.put((result, error)),
                client_timeout=seconds,
                # The server is told, too: a stage of its pipeline does not see that we have hung up.
                timeout=math.ceil(seconds * 1e6),
            )
            with waiter.waiting_for(call):
                result, error = answers.get()
        if error is not None:
            raise error
        return {tensor.name: result.as_numpy(tensor.name) for tensor in result.get_response().outputs}

    def _raise_if_final(self, status: str, message: str, name: str, request: Request) -> None:
        """Raises what a status means, unless the server is away or out of time."""
        if status in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return
        if status == "INVALID_ARGUMENT":
            # Triton server lets nothing but a sentence through, and a video's begins with what the server calls it.
            if message.startswith("<bytes>"):
                raise VideoDecodeError(name + message.removeprefix("<bytes>")) from None
            if request.keep_interlaced and "keep_interlaced" in message:
                raise InputError(
                    f"keep_interlaced is True, and the server at {self.url} is of a version that does not know it"
                ) from None
            raise InputError(message) from None
        if status == "UNIMPLEMENTED":
            raise RequestError(
                f"{name}: {self.url} speaks gRPC, and is no Triton server ({message}); give the address that diffvqa "
                "serve prints"
            ) from None
        if status == "NOT_FOUND":
            raise RequestError(
                f"{name}: {self.url} is a Triton server without the model {self._metric.name} ({message}); start it "
                "by diffvqa serve"
            ) from None
        raise RequestError(f"{name}: {self.url} failed ({status}: {message})") from None

    def _obstacle(self, error: Any, message: str, may_be_found: bool) -> str | None:
        """Returns why it is useless to ask again, to follow the address in a sentence; None where the server is away.

        `may_be_found`: a name that is not found is still looked for.
        """
        if _is_from_server(str(error.message())):
            return None
        if proxy := self._address.proxy():
            is_wrong = _WRONG_BEHIND_PROXY.search(message)
            return f"{NOT_GRPC}; or the proxy {proxy} lets nobody through ({message})" if is_wrong else None
        if _UNRESOLVED.search(message):
            return None if may_be_found else f"is a name that is not found ({message}); check how it is spelt"
        return obstacle_at(self._address, self._tls)


def _deadline(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"deadline_seconds is {value!r}; expected a number of seconds")
    if not 0 < float(value) <= _LONGEST_DEADLINE_SECONDS:
        raise ValueError(
            f"deadline_seconds is {value}; expected a number above 0, and at most {_LONGEST_DEADLINE_SECONDS}"
        )
    return float(value)


def _is_from_server(message: str) -> bool:
    """True where an UNAVAILABLE is a server's own word, and not gRPC's about the way to it."""
    return _IN_ENSEMBLE.search(message) is not None or _STUB_ENDED in message or _NO_VERSIONS in message


def _reason(error: Any) -> tuple[str, str]:
    """The gRPC status' name and the message of one of tritonclient's exceptions."""
    status = str(error.status() or "UNKNOWN").removeprefix("StatusCode.")
    message = _IN_ENSEMBLE.sub("", str(error.message()), count=1)
    # A model's process was killed with the request in it, or the server is about to end: it will be started again, and
    # scoring can be repeated.
    if _STUB_ENDED in message or _NO_VERSIONS in message:
        status = "UNAVAILABLE"
    return status, message
