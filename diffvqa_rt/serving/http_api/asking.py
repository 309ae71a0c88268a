"""The videos of an HTTP request, scored by the served ensembles through the client of gRPC."""

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from diffvqa_rt.errors import DiffVQAError, InputError
from diffvqa_rt.results import ScoringFailure, VideoScore
from diffvqa_rt.serving.client import Client, RequestError
from diffvqa_rt.serving.http_api.settings import ApiSettings
from diffvqa_rt.sources import source_name

UNDER_WAY = 32
"""The most videos that are at the server at a time; more wait here, on disk."""

UNDER_WAY_OF_A_REQUEST = 4

_NAMELESS = source_name(b"")


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """A video as it came, in a file that has no name; `name` is what its sender calls it."""

    name: str
    file: IO[bytes]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> bytes:
        with self._lock:
            self.file.seek(0)
            return self.file.read()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A video that its sender has not put right, and the sentence that says so."""

    name: str
    error: InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request: videos, each with its prompt, and how all of them are to be scored.

    Attributes:
        metric: by what.
        options: seed, crops and others, as keywords of `Client.score`.
        pairs: each video with its prompt, which nobody has checked; one video may stand there several times.
    """

    metric: str
    options: dict[str, Any]
    pairs: tuple[tuple[Upload | Unreadable, Any], ...]

    def close(self) -> None:
        for video, _ in self.pairs:
            if isinstance(video, Upload):
                video.file.close()


@dataclass(frozen=True, slots=True)
class Answered:
    """A result, and whether a failure is the server's fault and not the video's."""

    result: VideoScore | ScoringFailure
    is_servers_fault: bool = False


class Asker:
    """Has videos scored, so many at a time for all requests together; a request has its turn beside the others."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(UNDER_WAY, thread_name_prefix="diffvqa-http")
        self._clients: set[Client] = set()

    async def ask(self, asked: Asked) -> list[Answered]:
        """The results in order. Where the caller is cancelled, so is what is under way at the server."""
        turns = asyncio.Semaphore(UNDER_WAY_OF_A_REQUEST)
        loop = asyncio.get_running_loop()

        async def answer(video: Upload | Unreadable, prompt: Any) -> Answered:
            if isinstance(video, Unreadable):
                return Answered(ScoringFailure(source=video.name, error=str(video.error)))
            async with turns:
                return await loop.run_in_executor(self._pool, _answer, client, video, prompt, asked.options)

        with self._client(asked.metric) as client:
            return await asyncio.gather(*(answer(video, prompt) for video, prompt in asked.pairs))

    def close(self) -> None:
        """Ends what is under way: those videos fail, and the answers with them are sent."""
        for client in list(self._clients):
            client.close()

    @contextmanager
    def _client(self, metric: str) -> Iterator[Client]:
        """A client of one request's own: closing it cancels what the request has under way, and nothing else."""
        settings = self._settings
        client = Client(
            settings.grpc_url, metric=metric, deadline_seconds=settings.deadline_seconds, tls=settings.grpc_tls
        )
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)
            client.close()


def _answer(client: Client, video: Upload, prompt: Any, options: dict[str, Any]) -> Answered:
    try:
        score = client.score(video.read(), prompt=prompt, **options)
    except (DiffVQAError, TypeError, ValueError, OSError) as error:
        # A sentence about bytes begins with what they are called.
        sentence = str(error)
        if sentence.startswith(_NAMELESS):
            sentence = video.name + sentence.removeprefix(_NAMELESS)
        return Answered(ScoringFailure(source=video.name, error=sentence), isinstance(error, RequestError | OSError))
    return Answered(dataclasses.replace(score, source=video.name))
