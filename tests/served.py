"""`diffvqa serve` as a process that tests talk to, and clips of all the kinds it is asked about."""

import importlib.util
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from clips import make_clip
from PIL import Image

from diffvqa_rt import VideoScore
from diffvqa_rt.metric import Metric
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.results import ScoringFailure
from diffvqa_rt.serving import ServerError, find_tritonserver
from diffvqa_rt.serving.models import ServedModel, served_stages
from diffvqa_rt.serving.settings import RequestLimits, StageSettings, manifest_sha256
from diffvqa_rt.serving.tritonserver import children

# Both come in wheels that some machines have none of (see the Makefile): what imports this skips there, and says so.
grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
try:
    find_tritonserver()
except ServerError as error:
    pytest.skip(str(error), allow_module_level=True)

MAX_REQUEST_MIB = 2


HAS_HTTP = all(importlib.util.find_spec(name) for name in ("cryptography", "fastapi", "python_multipart", "uvicorn"))
"""Whether the extra `http` is installed."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Served:
    """`diffvqa serve` in a process of its own, and what it has written."""

    def __init__(self, engines: Path, *arguments: str, ports: Sequence[int] = ()) -> None:
        self.port, self.http_port, self.metrics_port = ports or free_ports(3)
        flags = ["--port", self.port, "--http-port", self.http_port, "--metrics-port", self.metrics_port]
        command = [sys.executable, "-m", "diffvqa_rt.cli", "serve", "--engines", engines, *flags, *arguments]
        self.process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        # The port of the HTTP API, if there is to be one.
        self.api_port = arguments[arguments.index("--http-api") + 1] if "--http-api" in arguments else None
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = f"127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 300
        while not any("metrics at" in line for line in self.lines):
            assert self.process.poll() is None and time.monotonic() < deadline, "\n".join(self.lines)
            time.sleep(0.05)

    def pids(self, name: str) -> list[int]:
        """The processes of the Triton server (`tritonserver`), of one of its models, or of the `http_api`."""
        ours = {Path(command).name: pid for pid, command in children(self.process.pid).items()}
        server = ours.pop("tritonserver")
        if name == "http_api":
            return list(ours.values())
        return [server] if name == "tritonserver" else [pid for pid, what in children(server).items() if what == name]

    def decoders(self) -> list[int]:
        """The processes that decode, one of each `preprocess`."""
        return [pid for model in self.pids("preprocess") for pid in children(model)]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Has no video decoded: what is asked for stays under way, however fast or busy the machine is."""
        decoders = self.decoders()
        assert decoders
        for pid in decoders:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in decoders:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def stop(self) -> int:
        self.process.terminate()
        status = self.process.wait(timeout=90)
        self._reader.join()
        return status


def make_certificates(folder: Path, *names: str) -> None:
    """Writes NAME.pem, NAME.key of this machine, each its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    for name in names:
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        files = ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        subprocess.run(["openssl", "req", "-x509", *key, *subject, *files], check=True, capture_output=True)


def still() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (90, 60), (200, 30, 60)).save(file, "PNG")
    return file.getvalue()


CLIPS = {
    "h264.mp4": lambda: make_clip(size=(320, 240), b_frames=2),
    "h265-10bit.mkv": lambda: make_clip("libx265", "matroska", pixel_format="yuv420p10le", size=(200, 220)),
    "vp9.webm": lambda: make_clip("libvpx-vp9", "webm", size=(240, 136)),
    "vp8.webm": lambda: make_clip("libvpx", "webm"),
    "mpeg4.avi": lambda: make_clip("mpeg4", "avi", size=(176, 144)),
    "mpeg2.mpg": lambda: make_clip("mpeg2video", "mpeg", size=(352, 288)),
    "variable-rate.mkv": lambda: make_clip(container="matroska", frames=10, times_ms=[0, *range(10, 900, 100)]),
    "rotated.mp4": lambda: make_clip(size=(400, 120), orientation=(90, True)),
    "prores-10bit.mov": lambda: make_clip("prores_ks", "mov", pixel_format="yuv422p10le", frames=5),
    "still.png": still,
}


def assert_same(served: VideoScore | ScoringFailure, expected: VideoScore, metric: Metric = METRIC) -> None:
    """All but the stages' times, bit for bit."""
    assert isinstance(served, VideoScore), served
    ours, theirs = served.as_dict(), expected.as_dict()
    stages = served_stages(metric.chain(next(iter(metric.presets.values()))))
    assert (tuple(ours.pop("stage_seconds")), tuple(theirs.pop("stage_seconds"))) == (stages, metric.stages)
    assert ours == theirs
    assert all(seconds > 0 for seconds in served.stage_seconds.values())


def in_protobuf(text):
    """A model's config, parsed by the definition that Triton server has of it."""
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    from google.protobuf import text_format

    return text_format.Parse(text, model_config.ModelConfig())


def parsed(repository):
    """Each served model's config."""
    return {path.parent.name: in_protobuf(path.read_text()) for path in repository.glob("*/config.pbtxt")}


def settings_for(folder: Path, **changes) -> StageSettings:
    """What the models of a server on an engine folder are told."""
    values = {
        "form": "embedded",
        "engines": str(folder),
        "manifest_sha256": manifest_sha256(folder),
        "backend": "onnx",
        "threads": None,
        "python": "/some where/“python”",
        "traffic": "/tmp/traffic",
        "limits": RequestLimits(),
        "max_rows": 16,
    }
    return StageSettings(**(values | changes))


NUMPY_NAMES = {
    "FP32": "float32",
    "FP64": "float64",
    "INT64": "int64",
    "INT32": "int32",
    "UINT8": "uint8",
    "BOOL": "bool",
}


def borders(tensors) -> dict[str, tuple[str, tuple[int, ...]]]:
    from tritonclient.grpc.model_config_pb2 import DataType

    return {
        tensor.name: (NUMPY_NAMES[DataType.Name(tensor.data_type).removeprefix("TYPE_")], tuple(tensor.dims))
        for tensor in tensors
    }


def expected_borders(specs) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {s.name: (s.dtype, tuple(-1 if isinstance(size, str) else size for size in s.shape)) for s in specs}


def whole_borders(config, tensors) -> dict[str, tuple[str, tuple[int, ...]]]:
    """With the leading axis that Triton server adds."""
    axis = (-1,) if config.max_batch_size else ()
    return {name: (dtype, (*axis, *dims)) for name, (dtype, dims) in borders(tensors).items()}


def assert_border(config, model: ServedModel) -> None:
    """A served model's config has the names, types and dims of its declaration."""
    assert whole_borders(config, config.input) == expected_borders(model.inputs), model.name
    assert whole_borders(config, config.output) == expected_borders(model.outputs), model.name
    assert {tensor.name for tensor in config.input if tensor.optional} == model.optional


def assert_joined(configs, ensemble: str) -> set[str]:
    """Each step of an ensemble takes tensors that fit, and makes others. Returns the names of what it gives out."""

    def fits(one, other) -> bool:
        """-1 stands for any size, as Triton server takes it."""
        (dtype, dims), (other_dtype, other_dims) = one, other
        pairs = zip(dims, other_dims, strict=True)
        return dtype == other_dtype and all(a == b or -1 in (a, b) for a, b in pairs)

    known = borders(configs[ensemble].input)
    for step in configs[ensemble].ensemble_scheduling.step:
        model = configs[step.model_name]
        inputs, outputs = borders(model.input), borders(model.output)
        optional = {tensor.name for tensor in model.input if tensor.optional}
        assert set(inputs) - optional <= set(step.input_map) <= set(inputs)
        for name, tensor in step.input_map.items():
            assert fits(known[tensor], inputs[name]), (step.model_name, name)
        for name, tensor in step.output_map.items():
            assert tensor not in known
            known[tensor] = outputs[name]
    given_out = borders(configs[ensemble].output)
    assert given_out.items() <= known.items()
    return set(given_out)
