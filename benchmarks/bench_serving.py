"""Scoring on a server beside scoring in this process: what gRPC, the ensemble and the decoder's process cost.

Both have the machine's cores; rounds take turns. Scores are compared, bit for bit, before anything is timed.

    pytest benchmarks/bench_serving.py --benchmark-only
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffvqa_rt import Scorer
from diffvqa_rt.serving import Client, Server, ServerConfig, ServerError, find_tritonserver

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")

ROUNDS = 9
CLIENTS = 16
VIDEOS = 16


@pytest.fixture(scope="module")
def engines_folder(tmp_path_factory) -> Path:
    """The served engines alone, built for this run."""
    import build_engines

    folder = tmp_path_factory.mktemp("engines") / "tiny"
    assert build_engines.main(["--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def server(engines_folder: Path) -> Iterator[Server]:
    try:
        find_tritonserver()
    except ServerError as error:
        pytest.skip(str(error))
    with Server(ServerConfig(engines=engines_folder, port=18001, http_port=18000, metrics_port=18002)) as server:
        server.start()
        yield server


def test_one_video(benchmark, time_in_turns, server, engines_folder, clip):
    """`overhead_seconds`: the median of the rounds' own differences."""
    benchmark.group = "file to score, tiny, 5 s of 720×480"
    scorer = Scorer.open(engines_folder)
    with Client(server.url) as client:
        assert client.score(clip).score == scorer.score(clip).score
        in_process: list[float] = []

        def score_here() -> None:
            start = time.perf_counter()
            scorer.score(clip)
            in_process.append(time.perf_counter() - start)

        time_in_turns(lambda: client.score(clip), {"in_process": score_here}, ROUNDS)
    differences = [served - here for served, here in zip(benchmark.stats.stats.data, in_process, strict=True)]
    benchmark.extra_info["overhead_seconds"] = round(statistics.median(differences), 4)


def test_sixteen_clients(benchmark, time_in_turns, server, engines_folder, clip):
    benchmark.group = f"{VIDEOS} files to their scores, tiny, 5 s of 720×480"
    scorer = Scorer.open(engines_folder)
    videos = [clip] * VIDEOS
    with Client(server.url, concurrency=CLIENTS) as client:
        assert {result.score for result in client.score_many(videos)} == {scorer.score(clip).score}
        time_in_turns(
            lambda: list(client.score_many(videos)), {"in_process": lambda: list(scorer.score_many(videos))}, rounds=3
        )
