"""Traces of requests, by Triton server's own setting: to a collector where one is named, and nowhere else."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("served", reason="needs Triton server and its client", exc_type=ImportError)

from served import CLIPS, Served, assert_same

from diffvqa_rt import Scorer
from diffvqa_rt.serving import Client, ServerConfig
from diffvqa_rt.serving.tritonserver import TritonServer, command_line


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a collector of OpenTelemetry, and what it was sent."""
    sent: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append(self.path.encode() + b" " + body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", sent
        server.shutdown()


def test_each_request_is_traced_through_the_ensemble(collector, small_engines):
    url, sent = collector
    served = Served(small_engines, "--trace-url", url)
    try:
        served.wait_until_ready()
        video = CLIPS["still.png"]()
        with Client(served.url, deadline_seconds=120) as client, Scorer.open(small_engines) as scorer:
            assert_same(client.score(video), scorer.score(video))
        deadline = time.monotonic() + 30
        while not all(any(model in body for body in sent) for model in (b"preprocess", b"vae_encoder", b"finish")):
            assert time.monotonic() < deadline, sent
            time.sleep(0.1)
    finally:
        assert served.stop() == 0
    assert all(body.startswith(b"/v1/traces ") for body in sent)


def test_no_trace_is_made_without_a_collector(small_engines, tmp_path):
    installed = TritonServer(binary=tmp_path / "tritonserver")
    for url, expected in {None: 0, "http://localhost:4318/v1/traces": 4}.items():
        config = ServerConfig(engines=small_engines, trace_url=url)
        words = command_line(config, installed, tmp_path, 8003, is_version_compatible=False)
        assert len([word for word in words if word.startswith("--trace")]) == expected
    with pytest.raises(ValueError, match="trace_url is 'localhost'; expected the address of a collector"):
        ServerConfig(engines=small_engines, trace_url="localhost")
