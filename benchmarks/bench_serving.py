"""Scoring on a server beside scoring in this process: what gRPC, the ensemble and the decoder's process cost.

Both have the machine's cores. Scores are compared, bit for bit, before anything is timed. One client's requests take
turns with as many calls in this process; for more clients a round is a queue of videos, worked off by the server with
that many requests under way, and one by one in this process.

    pytest benchmarks/bench_serving.py --benchmark-only
"""

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from diffvqa_rt import Scorer
from diffvqa_rt.engines import available_cpus
from diffvqa_rt.serving import Client, Server, ServerConfig, ServerError, find_tritonserver

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'diffvqa-rt[serve]'")

BASELINE = "in_process"
# clients → videos a round, rounds
QUEUES = {1: (1, 5), 4: (8, 1), 16: (16, 1)}


@pytest.fixture(scope="module")
def scorer(engines_folder: Path) -> Scorer:
    return Scorer.open(engines_folder)


@pytest.fixture(scope="module")
def server(engines_folder: Path) -> Iterator[Server]:
    try:
        find_tritonserver()
    except ServerError as error:
        pytest.skip(str(error))
    with Server(ServerConfig(engines=engines_folder, port=18001, http_port=18000, metrics_port=18002)) as server:
        server.start()
        yield server


class Queue:
    """Scores so many videos, so many at a time, and keeps how long each of them took."""

    def __init__(self, score: Callable[[], object], videos: int, at_a_time: int) -> None:
        self.seconds: list[float] = []
        self._score, self._videos, self._at_a_time = score, videos, at_a_time

    def __call__(self) -> None:
        with ThreadPoolExecutor(self._at_a_time) as callers:
            self.seconds += callers.map(self._score_one, range(self._videos))

    def _score_one(self, _: int) -> float:
        start = time.perf_counter()
        self._score()
        return time.perf_counter() - start

    def in_numbers(self, clients: int, median_round_seconds: float) -> dict[str, float]:
        """The row's facts. `clients`: how many the row is about; in this process there is one caller."""
        return {
            "clients": clients,
            "videos": self._videos,
            "requests": len(self.seconds),
            "videos_per_second": round(self._videos / median_round_seconds, 4),
            "p50_seconds": round(float(np.percentile(self.seconds, 50)), 4),
            # Of less than a hundred requests that is nearly the slowest.
            "p99_seconds": round(float(np.percentile(self.seconds, 99)), 4),
        }


@pytest.fixture(scope="module")
def worked_off() -> dict[int, float]:
    """clients → the seconds of the row in this process, where it was one round: that was the served row's turn."""
    return {}


@pytest.mark.parametrize(
    ("clients", "provider"), [(clients, provider) for clients in QUEUES for provider in (BASELINE, "grpc")]
)
def test_served(benchmark, server, scorer, clip, worked_off, clients: int, provider: str) -> None:
    """`overhead_seconds`, of one client: the median of the rounds' own differences."""
    videos, rounds = QUEUES[clients]
    here = Queue(lambda: scorer.score(clip), videos, at_a_time=1)
    benchmark.group = f"served: {videos} of 5 s of 720×480 to scores, {clients} at a time, tiny"
    benchmark.extra_info |= {"provider": provider, "baseline": provider == BASELINE, "threads": available_cpus()}
    if provider == BASELINE:
        scorer.score(clip)
        benchmark.pedantic(here, rounds=rounds)
        if rounds == 1:
            worked_off[clients] = benchmark.stats.stats.median
        benchmark.extra_info |= here.in_numbers(clients, benchmark.stats.stats.median)
        return

    baseline_seconds: list[float] = []

    def take_turns() -> None:
        start = time.perf_counter()
        if clients not in worked_off:
            here()
        baseline_seconds.append(worked_off.pop(clients, time.perf_counter() - start))

    with Client(server.url, concurrency=clients) as client:
        assert client.score(clip).score == scorer.score(clip).score
        there = Queue(lambda: client.score(clip), videos, at_a_time=clients)
        benchmark.pedantic(there, setup=take_turns, rounds=rounds)
    seconds = benchmark.stats.stats.data
    ratios = [theirs / ours for ours, theirs in zip(seconds, baseline_seconds, strict=True)]
    benchmark.extra_info[f"speedup_over_{BASELINE}"] = round(statistics.median(ratios), 3)
    benchmark.extra_info |= there.in_numbers(clients, benchmark.stats.stats.median)
    if clients == 1:
        overheads = [ours - theirs for ours, theirs in zip(seconds, baseline_seconds, strict=True)]
        benchmark.extra_info["overhead_seconds"] = round(statistics.median(overheads), 4)
