"""Metrics in Triton Inference Server: `Server` starts one on an engine folder, `Client` scores videos over gRPC.

    with Server(ServerConfig(engines=Path("build/tiny"))) as server:
        server.start()
        with Client(server.url) as client:
            print(client.score("clip.mp4").score)

`client` asks. The server has `tritonserver`, which finds Triton server, and `endpoints`, which answers for health and
metrics. `models` derives the served models and ensembles from a metric's chain, `model_config` writes a config of each,
and `repository` puts them beside the programs of `triton_repo/` for an engine folder. The programs share
`python_backend`, `tensor_checks` and `metrics`; `decoding` decodes requests' videos within their limits; `settings` is
what can be set.
"""

from diffvqa_rt.serving.client import Client, ClientTls, RequestError
from diffvqa_rt.serving.server import Server, serve
from diffvqa_rt.serving.settings import RequestLimits, ServerConfig, ServerTls
from diffvqa_rt.serving.tritonserver import ServerError, find_tritonserver

__all__ = [
    "Client",
    "ClientTls",
    "RequestError",
    "RequestLimits",
    "Server",
    "ServerConfig",
    "ServerError",
    "ServerTls",
    "find_tritonserver",
    "serve",
]
