"""Starts a server, scores videos by it and stops it: serve_and_score.py ENGINES PORT VIDEO…

The server takes PORT for gRPC, the next one for health and the one after that for metrics.
"""

import sys
from pathlib import Path

from diffvqa_rt import ScoringFailure
from diffvqa_rt.serving import Client, Server, ServerConfig

engines, first, *videos = sys.argv[1:]
port = int(first)
config = ServerConfig(engines=Path(engines), port=port, http_port=port + 1, metrics_port=port + 2)

# `diffvqa serve` is the same in a process of its own, which starts again what dies.
with Server(config) as server:
    server.start()
    with Client(f"localhost:{port}", concurrency=4) as client:
        for result in client.score_many(videos):
            if isinstance(result, ScoringFailure):
                print(f"failed {result.source}: {result.error}")
            else:
                print(f"{result.score:.3f} {result.source}")
