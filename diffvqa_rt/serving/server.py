"""Finding Triton Inference Server, starting it on an engine folder, and stopping it when told to."""

import contextlib
import ctypes
import dataclasses
import importlib.util
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.serving.repository import assemble_repository, choose_form, most_videos
from diffvqa_rt.serving.settings import ServerConfig, StageSettings, manifest_sha256
from diffvqa_rt.serving.traffic import Traffic

INSTALL_HINT = "pip install --no-deps nvidia-pytriton==0.7.0"

# What a stranger's request must not reach. `health`, `metadata`, `model-config` and `statistics` only read.
_CLOSED_TO_GRPC = "shared-memory,model-repository,trace,logging"
_CLOSED_TO_HTTP = "metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging"
_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 10
_LONGEST_PAUSE_SECONDS = 30


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
            f"no tritonserver on PATH, and none installed by pip: {INSTALL_HINT} (with its dependencies it would "
            "replace NumPy)"
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


class Server:
    """A Triton server on an engine folder; leaving the `with` block stops it, requests in flight are answered first.

    with Server(ServerConfig(engines=Path("build/tiny"))) as server:
        server.start()
    """

    def __init__(self, config: ServerConfig) -> None:
        """Verifies the engine folder and writes the models' repository, in a temporary folder.

        Raises:
            EngineMismatchError: the folder is not an engine folder, or not as it was built.
            ServerError: there is no Triton server here.
        """
        self.config = config
        self._installed = find_tritonserver()
        folder = config.engines.resolve()
        manifest = Manifest.read(folder)
        record = manifest.backend(config.backend, folder)
        # For a sentence here and now; each model's process verifies the very bytes that it opens, too.
        manifest.verify(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: dict[int, str] = {}
        self._stop_asked = os.eventfd(0)
        self._cleanup = ExitStack()
        self._cleanup.callback(os.close, self._stop_asked)
        # Its name is also that of the shared memory, which processes that were killed leave behind.
        self._run = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="diffvqa-serve-")))
        self._traffic = Traffic(self._run / "traffic")
        self.form = choose_form(config.backend, record, self._installed.backends)
        # Only so many crops of a video as the engines take rows: nobody cuts a request in the production form.
        max_crops = min(config.limits.max_crops, most_videos(record) or config.limits.max_crops)
        settings = StageSettings(
            form=self.form,
            engines=str(folder),
            manifest_sha256=manifest_sha256(folder),
            backend=config.backend,
            threads=config.threads,
            python=sys.executable,
            traffic=str(self._traffic.folder),
            limits=dataclasses.replace(config.limits, max_crops=max_crops),
        )
        try:
            assemble_repository(settings, self._run / "models")
            # Nothing lies there: DALI opens what a text in a video's place names, if it lies where the server runs.
            self._working_folder = self._run / "empty"
            self._working_folder.mkdir()
            is_version_compatible = record.settings.get("VERSION_COMPATIBLE") == "on"
            self._command = _command(config, self._installed, self._run, is_version_compatible)
        except BaseException:
            self._cleanup.close()
            raise

    @property
    def url(self) -> str:
        """Where a client finds it."""
        return f"{self.config.host}:{self.config.port}"

    def start(self, timeout_seconds: float = 600) -> None:
        """Returns once every model has verified its engine and loaded it, or a stop was asked for.

        Raises ServerError if that fails or takes longer than `timeout_seconds`.
        """
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, **_environment(), **self._installed.environment},
            cwd=self._working_folder,
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for us: the server is told to stop once.
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready() and not self._traffic.is_stopped:
            if (status := self._process.poll()) is not None:
                raise ServerError(
                    f"tritonserver ended with status {status} before it was ready; what it wrote above says why"
                )
            if time.monotonic() > deadline:
                raise ServerError(f"tritonserver was not ready within {timeout_seconds:g} s; start it again")
            time.sleep(0.1)
        pids = {self._process.pid: "tritonserver", **children(self._process.pid)}
        self._watched = {os.pidfd_open(pid): name for pid, name in pids.items()}

    def is_ready(self) -> bool:
        """Whether every model is loaded and takes requests."""
        host = "127.0.0.1" if self.config.host == "0.0.0.0" else self.config.host
        try:
            with urllib.request.urlopen(f"http://{host}:{self.config.http_port}/v2/health/ready", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def wait(self) -> str | None:
        """Returns when a stop is asked for (None), or a process has ended: that of which model, or `tritonserver`."""
        poll = select.poll()
        for descriptor in (self._stop_asked, *self._watched):
            poll.register(descriptor, select.POLLIN)
        ended = {descriptor for descriptor, _ in poll.poll()}
        return None if self._stop_asked in ended else self._watched[ended.pop()]

    def stops_within(self, seconds: float) -> bool:
        """Waits for so long, or until a stop is asked for, which it then returns."""
        return bool(select.select([self._stop_asked], [], [], seconds)[0])

    def ask_to_stop(self) -> None:
        """New requests are refused as unavailable from now on, and `wait` returns. For a signal's handler, too."""
        self._traffic.stop()
        os.eventfd_write(self._stop_asked, 1)

    def kill(self) -> None:
        """Ends the server and all models at once. Clients see it as unavailable and ask again."""
        for descriptor in self._watched:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
        self._watched = {}
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        _remove_shared_memory(self._run.name)

    def stop(self) -> None:
        """Ends the server; requests in flight are answered first, as far as `drain_seconds` go."""
        self._traffic.stop()
        if self._process is not None and self._process.poll() is None:
            # Triton server closes idle models first, and `unet_controller` is idle between two steps.
            self._traffic.wait_until_idle(self.config.drain_seconds)
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)
        self.kill()
        self._cleanup.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(config: ServerConfig) -> int:
    """Serves until SIGTERM or SIGINT; exit status 0.

    A model whose process has ended would be missing for good, since Triton server 2.51 starts no other: then all is
    started again, and clients that ask again find it.

    Raises ServerError if the server does not become ready.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    with Server(config) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.ask_to_stop())
        early_ends = 0
        while True:
            started = time.monotonic()
            server.start()
            _announce(server)
            lost = server.wait()
            if lost is None:
                return 0
            print(f"diffvqa: the process of {lost} has ended; starting again", file=sys.stderr, flush=True)
            server.kill()
            # What ends soon after every start is not to keep the machine busy with starting: 0, 2, 6, 14, 30 s.
            early_ends = early_ends + 1 if time.monotonic() - started < _LONGEST_PAUSE_SECONDS else 1
            if server.stops_within(min(2**early_ends - 2, _LONGEST_PAUSE_SECONDS)):
                return 0


def _leave(*_: object) -> None:
    """On a signal while engines are verified: nothing runs yet. As process 1 of a container it would be ignored."""
    sys.exit(0)


def _announce(server: Server) -> None:
    config = server.config
    for line in (
        f"{server.form} form, {config.backend} engines",
        f"scoring at {server.url} (gRPC{', TLS' if config.tls else ''})",
        f"health at http://{config.host}:{config.http_port}/v2/health/ready",
        f"metrics at http://{config.host}:{config.metrics_port}/metrics",
    ):
        print(f"diffvqa: {line}", file=sys.stderr, flush=True)


def _command(config: ServerConfig, installed: TritonServer, run: Path, is_version_compatible: bool) -> list[str]:
    # Nobody knows this run's key, so what it guards is closed.
    key = f"diffvqa={secrets.token_hex(16)}"
    options: dict[str, object] = {
        "model-repository": run / "models",
        "model-control-mode": "none",
        "disable-auto-complete-config": "",
        "exit-timeout-secs": _GRACE_SECONDS // 2,
        "grpc-address": config.host,
        "grpc-port": config.port,
        "grpc-restricted-protocol": f"{_CLOSED_TO_GRPC}:{key}",
        # It would keep its last messages, videos and all, for as long as it runs.
        "grpc-infer-allocation-pool-size": 0,
        "http-address": config.host,
        "http-port": config.http_port,
        "http-restricted-api": f"{_CLOSED_TO_HTTP}:{key}",
        "metrics-address": config.host,
        "metrics-port": config.metrics_port,
        "log-info": "false",
    }
    if Path("/dev/nvidiactl").exists():
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
    ]


def _environment() -> dict[str, str]:
    """So that the models' processes import what this one does, whichever way it was started."""
    paths = [str(Path(path).resolve()) for path in sys.path if path and Path(path).exists()]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }


def children(pid: int) -> dict[int, str]:
    """The processes that one has started, by what they are for: `preprocess`, …."""
    found = {}
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            # The stub's first argument: …/models/NAME/1/model.py
            arguments = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            found[child] = Path(arguments[1]).parts[-3] if "stub" in arguments[0] else arguments[0]
    return found


def _die_with_parent() -> None:
    """In the child: a server whose starter was killed is stopped, too."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _remove_shared_memory(prefix: str) -> None:
    """What processes that were killed have left."""
    for path in Path("/dev/shm").glob(f"{prefix}*"):
        path.unlink(missing_ok=True)
