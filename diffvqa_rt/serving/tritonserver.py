"""Triton Inference Server as it is installed here: where it is, how it is called, what it leaves behind."""

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import sys
import sysconfig
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.extras import pip_command
from diffvqa_rt.serving.settings import ServerConfig

_WHEEL = ("--no-deps", "nvidia-pytriton==0.7.0")
GRACE_SECONDS = 10

# What a client has no use for. `health`, `metadata` and `inference` are open.
_CLOSED = "shared-memory,model-repository,model-config,statistics,trace,logging"

_NO_GPU = re.compile(
    rb'E\d{4} [^"]*("CudaDriverHelper has not been initialized\."'
    rb'|"unable to create stream for [^"]*: (CUDA driver version is insufficient for CUDA runtime version'
    rb'|no CUDA-capable device is detected)")\s*'
)


class ServerError(DiffVQAError):
    """Triton server cannot be found, or ends before it is told to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TritonServer:
    """An installed Triton Inference Server.

    Attributes:
        binary: the server.
        environment: what its process needs beside ours.
        backends: the folder of its backends, if it has one of its own.
        python_backend: without one, the files of the Python backend, to be put together.
    """

    binary: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    backends: Path | None = None
    python_backend: tuple[Path, ...] = ()


def find_tritonserver() -> TritonServer:
    """The server on PATH, or else the one in the wheel of NVIDIA's `pytriton`, which is not imported.

    Raises ServerError where there is none, or none for this Python.
    """
    if on_path := shutil.which("tritonserver"):
        binary = Path(on_path).resolve()
        return TritonServer(binary=binary, backends=binary.parents[1] / "backends")
    package = importlib.util.find_spec("pytriton")
    if package is None or not package.submodule_search_locations:
        raise ServerError(
            f"no tritonserver on PATH, and none installed by pip: {pip_command('install', *_WHEEL)} "
            "(with its dependencies it would replace NumPy)"
        )
    wheel = Path(package.submodule_search_locations[0])
    root, version = wheel / "tritonserver", f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    libraries = Path(sysconfig.get_config_var("LIBDIR"))
    if not stub.exists():
        raise ServerError(f"{root} has no Python backend for Python {version}; run diffvqa in an older Python")
    if not (libraries / f"libpython{version}.so.1.0").exists():
        raise ServerError(
            f"this Python has no shared library ({libraries}/libpython{version}.so.1.0), which Triton server's Python "
            "backend needs; install one built with --enable-shared"
        )
    search = [str(wheel.parent / "nvidia_pytriton.libs"), str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    backend = root / "backends" / "python"
    return TritonServer(
        binary=root / "bin" / "tritonserver",
        environment={"LD_LIBRARY_PATH": ":".join(filter(None, search))},
        python_backend=(backend / "libtriton_python.so", backend / "triton_python_backend_utils.py", stub),
    )


def command_line(
    config: ServerConfig, installed: TritonServer, run: Path, metrics_port: int, *, is_version_compatible: bool
) -> list[str]:
    """The command that starts the server on the models in `run`: gRPC for clients, metrics for us on this machine."""
    # Closed to everyone but who can read this command line: the users of this machine.
    key = f"diffvqa={secrets.token_hex(16)}"
    options: dict[str, object] = {
        "model-repository": run / "models",
        "model-control-mode": "none",
        "disable-auto-complete-config": "",
        "exit-timeout-secs": GRACE_SECONDS // 2,
        "grpc-address": config.host,
        "grpc-port": config.port,
        "grpc-restricted-protocol": f"{_CLOSED}:{key}",
        # It would keep its last messages, videos and all, for as long as it runs.
        "grpc-infer-allocation-pool-size": 0,
        "allow-http": "false",
        "metrics-address": "127.0.0.1",
        "metrics-port": metrics_port,
        "log-info": "false",
    }
    if has_gpu():
        # Where the tensors between two models on the GPU lie: at full size 230 MB for a video past `vae_encoder`.
        options["cuda-memory-pool-byte-size"] = f"0:{4 << 30}"
    else:  # no GPU, and no complaints about that
        options |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
    if installed.python_backend:
        backend = run / "backends" / "python"
        backend.mkdir(parents=True)
        for file in installed.python_backend:
            (backend / file.name).symlink_to(file)
        options["backend-directory"] = backend.parent
    elif installed.backends:
        options["backend-directory"] = installed.backends
    if tls := config.tls:
        options |= {"grpc-use-ssl": "true", "grpc-server-cert": tls.cert, "grpc-server-key": tls.key}
        if tls.client_ca:
            options |= {"grpc-use-ssl-mutual": "true", "grpc-root-cert": tls.client_ca}
    backend_configs = [f"python,shm-region-prefix-name={run.name}"]
    if is_version_compatible:
        # Such a plan carries the runtime that it was built with, as code; its hash has been checked.
        backend_configs.append("tensorrt,version-compatible=true")
    return [
        str(installed.binary),
        *(f"--{name}={value}" if value != "" else f"--{name}" for name, value in options.items()),
        *(f"--backend-config={setting}" for setting in backend_configs),
        *(f"--trace-config={setting}" for setting in _trace_settings(config.trace_url)),
    ]


def _trace_settings(url: str | None) -> tuple[str, ...]:
    """Settings of Triton server by which it sends a trace of each request to a collector; none without one."""
    if url is None:
        return ()
    return ("mode=opentelemetry", f"opentelemetry,url={url}", "level=TIMESTAMPS", "rate=1")


def has_gpu() -> bool:
    """True where the driver of an NVIDIA GPU is loaded on this machine."""
    return Path("/dev/nvidiactl").exists()


def forward_log(log: IO[bytes]) -> threading.Thread:
    """Starts a thread that writes a log to standard error, without what Triton server says of a missing GPU.

    Triton server has no option for that: it asks for a CUDA stream for each ensemble, GPU or not, and reports two
    errors that mean nothing on a machine without one. Those lines alone are left out.
    """

    def forward() -> None:
        with log:
            for line in log:
                if not _NO_GPU.fullmatch(line):
                    with contextlib.suppress(OSError):  # nobody reads it; the server must not wait for that
                        os.write(2, line)

    thread = threading.Thread(target=forward, name="tritonserver-log", daemon=True)
    thread.start()
    return thread


def environment() -> dict[str, str]:
    """So that the models' processes import what this one does, whichever way it was started."""
    paths = [str(Path(path).resolve()) for path in sys.path if path and Path(path).exists()]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


def children(pid: int) -> dict[int, str]:
    """The processes that one has started, by what they are for: `preprocess`, ….

    Raises OSError where one of them ends meanwhile.
    """
    found = {}
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            # The stub's first argument: …/models/NAME/1/model.py
            arguments = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            found[child] = Path(arguments[1]).parts[-3] if "stub" in arguments[0] else arguments[0]
    return found


def end_processes_of(run: Path) -> None:
    """Ends the models' processes of a run whose server was killed: they stay."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if command.read_text().startswith(f"{run}/"):
                os.kill(int(command.parts[2]), signal.SIGKILL)


def remove_shared_memory(prefix: str) -> None:
    """Removes the shared memory that processes which were killed have left."""
    for path in Path("/dev/shm").glob(f"{prefix}*"):
        path.unlink(missing_ok=True)
