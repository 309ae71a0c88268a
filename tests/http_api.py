"""The HTTP API as a process, in front of a stand-in of the served ensembles that gives a score of the bytes alone."""

import dataclasses
import json
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

from diffvqa_rt.results import ModelFacts
from diffvqa_rt.serving import RequestLimits, ServerConfig, ServerTls
from diffvqa_rt.serving.http_api.process import HttpApi
from diffvqa_rt.serving.http_api.settings import ServedNetwork
from diffvqa_rt.serving.traffic import Traffic
from diffvqa_rt.video import sample_frames

# What imports this skips where the extra `http` is not installed, and says so.
for package in ("cryptography", "fastapi", "python_multipart", "uvicorn"):
    pytest.importorskip(package, reason=f"{package} is not installed")

MAX_REQUEST_BYTES = 1 << 20
MAX_CROPS = 3
SLOW, FAULT, BAD = b"slow", b"fault", b"bad"
"""Begin a video that is not answered, that the server fails at, and that is refused."""

_INFO = dataclasses.asdict(sample_frames(np.zeros((1, 8, 8, 3), np.uint8), 1).info)


def network(metric: str, title: str, options: tuple[str, ...], parts: tuple[str, ...] = ()) -> ServedNetwork:
    facts = ModelFacts(
        model="tiny",
        is_trained=True,
        weights_sha256="ab",
        engines_sha256="cd",
        precision="fp32",
        backend="onnx",
        views_by="pillow",
        score_range=(0.0, 100.0),
        metric=metric,
        is_temporal=True,
        parts=parts,
        takes_prompt="prompt" in options,
    )
    limits = RequestLimits(max_request_bytes=MAX_REQUEST_BYTES, max_crops=MAX_CROPS)
    return ServedNetwork(title=title, description="a stand-in", options=options, limits=limits, facts=facts)


NETWORKS = {
    "diffvqa": network("diffvqa", "DiffVQA", ("seed", "crops", "keep_interlaced")),
    "aigc_vqa": network("aigc_vqa", "AIGC-VQA", ("seed", "crops", "patch_maps", "prompt"), ("technical", "alignment")),
}


class StandIn(GRPCInferenceServiceServicer):
    """Answers as the ensembles do, in no time; `waiting` counts the slow ones that somebody waits for."""

    def __init__(self) -> None:
        self.waiting = 0
        self._lock = threading.Lock()

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        given = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
        video = given["video"]
        crops = int(np.frombuffer(given.get("crops", np.int32(1).tobytes()), np.int32)[0])
        if video.startswith(BAD):
            self._refuse(context, request, "<bytes> is not a video or image that can be read")
        if len(video) > MAX_REQUEST_BYTES:
            self._refuse(
                context,
                request,
                f"<bytes> is {len(video):,} bytes long, and this server takes at most {MAX_REQUEST_BYTES:,}",
            )
        if crops > MAX_CROPS:
            self._refuse(context, request, f"crops is {crops}; this server takes at most {MAX_CROPS}")
        if video.startswith(FAULT):
            context.abort(grpc.StatusCode.INTERNAL, "the network's score is not finite")
        if video.startswith(SLOW):
            self._wait(context)
        return _answer(request.model_name, given, crops)

    def _refuse(self, context: Any, request: Any, sentence: str) -> None:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"in ensemble '{request.model_name}', {sentence}")

    def _wait(self, context: Any) -> None:
        left = threading.Event()
        context.add_callback(left.set)
        with self._lock:
            self.waiting += 1
        left.wait(60)
        with self._lock:
            self.waiting -= 1


def score_of(video: bytes, prompt: str = "", seed: int = 0) -> float:
    """The stand-in's score; no number of a few digits."""
    return float(np.float32(zlib.crc32(video + prompt.encode(), seed) / 2**32 * 100))


def _answer(model: str, given: dict[str, bytes], crops: int) -> Any:
    prompt = given.get("prompt", b"").decode()
    score = score_of(given["video"], prompt, int.from_bytes(given["seed"], "little"))
    network = NETWORKS[model.removesuffix("_visual")]
    info = {**_INFO, "prompt": {"text": prompt, "tokens": 3, "is_truncated": False} if prompt else None}
    values = np.full(crops, score, np.float32)
    tensors = {
        "score": values,
        **{part: values for part in network.facts.parts if prompt or part != "alignment"},
        "timestamps_seconds": np.arange(2.0),
        "stage_seconds": np.ones(8),
        "video_info": np.frombuffer(json.dumps(info).encode(), np.uint8),
        "model": np.frombuffer(json.dumps(dataclasses.asdict(network.facts)).encode(), np.uint8),
    }
    answer = pb.ModelInferResponse(model_name=model)
    for name, array in tensors.items():
        datatype = {"f4": "FP32", "f8": "FP64", "u1": "UINT8"}[array.dtype.str[1:]]
        answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
        answer.raw_output_contents.append(array.tobytes())
    return answer


class Api:
    """An API process, and where it is."""

    def __init__(self, process: HttpApi, config: ServerConfig, stand_in: StandIn, traffic: Traffic) -> None:
        self.process, self.stand_in, self.traffic = process, stand_in, traffic
        self.port, self.grpc_url = config.http_api_port, f"127.0.0.1:{config.port}"
        self.url = f"http{'s' if config.tls else ''}://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.pid = self.process.start({**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, lambda: None)

    def post(self, **options: Any) -> requests.Response:
        """The answer to a request for scores."""
        return requests.post(f"{self.url}/v1/score", timeout=60, **options)

    @property
    def memory_mib(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(resident) / 1024


@contextmanager
def api_before_a_stand_in(folder: Path, ports: list[int], tls: ServerTls | None = None) -> Iterator[Api]:
    """The API on the third of four free ports, asking a stand-in on the first."""
    port, http_port, api_port, metrics_port = ports
    config = ServerConfig(
        engines=folder, port=port, http_port=http_port, metrics_port=metrics_port, http_api_port=api_port, tls=tls
    )
    traffic = Traffic(folder / "traffic")
    with HttpApi(config.host, api_port) as process:
        inner = process.prepare(config, tuple(NETWORKS.values()), folder, traffic.folder)
        server = grpc.server(ThreadPoolExecutor(64))
        stand_in = StandIn()
        add_GRPCInferenceServiceServicer_to_server(stand_in, server)
        if inner.tls is None:
            server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            server.add_secure_port(f"127.0.0.1:{port}", _credentials(inner.tls))
        server.start()
        try:
            api = Api(process, config, stand_in, traffic)
            api.start()
            yield api
        finally:
            server.stop(None)


def _credentials(tls: ServerTls) -> Any:
    assert tls.key is not None and tls.cert is not None
    ca = tls.client_ca.read_bytes() if tls.client_ca else None
    return grpc.ssl_server_credentials([(tls.key.read_bytes(), tls.cert.read_bytes())], ca, ca is not None)
