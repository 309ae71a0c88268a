"""Starting Triton Inference Server on an engine folder, keeping it up, and stopping it when told to."""

import contextlib
import ctypes
import dataclasses
import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from diffvqa_rt.engines.manifest import BackendRecord, Manifest
from diffvqa_rt.serving.endpoints import Answer, Endpoint, fetch_metrics
from diffvqa_rt.serving.http_api.process import HTTP_API, HttpApi
from diffvqa_rt.serving.http_api.settings import ServedNetwork
from diffvqa_rt.serving.models import Form
from diffvqa_rt.serving.repository import assemble_repository, choose_form
from diffvqa_rt.serving.settings import ServerConfig, StageSettings, manifest_sha256
from diffvqa_rt.serving.traffic import Traffic
from diffvqa_rt.serving.tritonserver import (
    GRACE_SECONDS,
    ServerError,
    TritonServer,
    children,
    command_line,
    end_processes_of,
    environment,
    find_tritonserver,
    forward_log,
    has_gpu,
    remove_shared_memory,
)

_RUN_PREFIX = "diffvqa-serve-"
_PR_SET_PDEATHSIG = 1
_EARLY_SECONDS = 3
_LOG_SECONDS = 5
_LONGEST_PAUSE_SECONDS = 30
_API_PAUSE_SECONDS = 1


class Server:
    """A Triton server on an engine folder; leaving the `with` block stops it, requests in flight are answered first.

    with Server(ServerConfig(engines=Path("build/tiny"))) as server:
        server.start()
    """

    def __init__(self, config: ServerConfig) -> None:
        """Verifies the engine folder and writes the models' repository, in a temporary folder.

        Raises:
            EngineMismatchError: the folder is not an engine folder, or not as it was built.
            ServerError: there is no Triton server here, not one for that address, or a port is taken.
        """
        self.config = config
        installed = find_tritonserver()
        if installed.python_backend and not config.is_loopback:
            raise ServerError(
                f"host is {config.host}, and the server of the nvidia-pytriton wheel is of 2024, with holes that are "
                "closed since; reach a network with Triton server 26.07 or later (deploy/Dockerfile)"
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._api: HttpApi | None = None
        self._log: threading.Thread | None = None
        self._watched: dict[int, str] = {}
        self._is_closed = False
        self._stop_asked = os.eventfd(0)
        with ExitStack() as cleanup:
            cleanup.callback(os.close, self._stop_asked)
            self._open_endpoints(cleanup)
            self._run = _run_folder(cleanup)
            self._traffic = Traffic(self._run / "traffic")
            self._prepare(installed)
            self._cleanup = cleanup.pop_all()

    def _open_endpoints(self, cleanup: ExitStack) -> None:
        """Health and metrics, answered from now on: alive, and not ready."""
        config = self.config
        paths = {"/v2/health/live": lambda: (200, ""), "/v2/health/ready": self._answer_ready}
        try:
            _wait_for_port(config.host, config.port)
            cleanup.callback(Endpoint(config.host, config.http_port, paths).close)
            cleanup.callback(Endpoint(config.host, config.metrics_port, {"/metrics": self._answer_metrics}).close)
            if config.http_api_port is not None:
                self._api = cleanup.enter_context(HttpApi(config.host, config.http_api_port))
        except OSError as error:
            *ports, last = config.ports
            raise ServerError(
                f"cannot listen on ports {', '.join(map(str, ports))} and {last} of {config.host} ({error.strerror}); "
                "stop what uses them, or name others with --port, --http-port, --metrics-port and --http-api"
            ) from error
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._inner_metrics_port = free.getsockname()[1]

    def _prepare(self, installed: TritonServer) -> None:
        config = self.config
        of_metric: dict[str, Path] = {}
        records, networks = [], []
        self.forms: dict[str, Form] = {}
        for folder in (folder.resolve() for folder in config.folders):
            manifest = Manifest.read(folder)
            name, record = manifest.metric.name, manifest.backend(config.backend, folder)
            # For a sentence here and now; each model's process verifies the very bytes that it opens, too.
            manifest.verify(folder)
            if name in of_metric:
                raise ServerError(
                    f"{of_metric[name]} and {folder} are both of the metric {name}; a server plays one of them"
                )
            of_metric[name] = folder
            self.forms[name] = choose_form(config.backend, record, installed.backends)
            settings = self._settings(folder, self.forms[name], record)
            assemble_repository(settings, self._run / "models")
            records.append(record)
            networks.append(ServedNetwork.of(settings))
        # Nothing lies there: DALI opens what a text in a video's place names, if it lies where the server runs.
        self._working_folder = self._run / "empty"
        self._working_folder.mkdir()
        if self._api is not None:
            config = self._api.prepare(config, tuple(networks), self._run, self._traffic.folder)
        self._command = command_line(
            config,
            installed,
            self._run,
            self._inner_metrics_port,
            is_version_compatible=any(record.is_version_compatible for record in records),
        )
        self._environment = {**os.environ, **environment(), **installed.environment}

    def _settings(self, folder: Path, form: Form, record: BackendRecord) -> StageSettings:
        config, manifest = self.config, Manifest.read(folder)
        # Only so many rows as the engines take: nobody cuts a request in the production form.
        max_rows = config.limits.max_crops * manifest.metric.rows_a_crop(manifest.config)
        max_rows = min(max_rows, record.max_videos or max_rows)
        return StageSettings(
            form=form,
            engines=str(folder),
            manifest_sha256=manifest_sha256(folder),
            backend=config.backend,
            threads=config.threads,
            python=sys.executable,
            traffic=str(self._traffic.folder),
            limits=dataclasses.replace(config.limits, max_crops=min(config.limits.max_crops, max_rows)),
            max_rows=max_rows,
        )

    @property
    def form(self) -> Form:
        """The form in which the engines run: `production` where Triton server runs any by itself."""
        return "production" if "production" in self.forms.values() else "embedded"

    @property
    def url(self) -> str:
        """The address at which a client finds it."""
        return f"{self.config.host}:{self.config.port}"

    def start(self, timeout_seconds: float = 600) -> None:
        """Returns once every model has verified its engine and loaded it, or a stop was asked for.

        Call it from the thread that will outlive the server: Triton server ends with the thread that started it.

        Raises ServerError if that fails or takes longer than `timeout_seconds`.
        """
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            cwd=self._working_folder,
            stdin=subprocess.DEVNULL,
            stderr=None if has_gpu() else subprocess.PIPE,
            # Ctrl-C is for us: the server is told to stop once.
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        if self._process.stderr is not None:
            self._log = forward_log(self._process.stderr)
        deadline = time.monotonic() + timeout_seconds
        # Triton server opens its ports once all models are loaded.
        while fetch_metrics(self._inner_metrics_port) is None and not self._traffic.is_stopped:
            if (status := self._process.poll()) is not None:
                if self._log is not None:  # it says why
                    self._log.join(_LOG_SECONDS)
                raise ServerError(
                    f"tritonserver ended with status {status} before it was ready; what it wrote above says why"
                )
            if time.monotonic() > deadline:
                raise ServerError(f"tritonserver was not ready within {timeout_seconds:g} s; start it again")
            time.sleep(0.1)
        self._watched = {os.pidfd_open(self._process.pid): "tritonserver"}
        # One that has ended already is missed by `wait`: nothing is left of it that says when. So it ends the server.
        try:
            for pid, name in children(self._process.pid).items():
                self._watched[os.pidfd_open(pid)] = name
        except OSError:
            self._process.kill()
        self.start_api()

    def start_api(self) -> None:
        """Starts the process of the HTTP API, if there is to be one, or starts it again where it has ended."""
        if self._api is not None:
            for descriptor in [descriptor for descriptor, name in self._watched.items() if name == HTTP_API]:
                os.close(descriptor)
                del self._watched[descriptor]
            self._api.kill()
            pid = self._api.start({**os.environ, **environment()}, _die_with_parent)
            self._watched[os.pidfd_open(pid)] = HTTP_API

    def is_ready(self) -> bool:
        """True where every model is loaded and takes requests."""
        is_running = self._process is not None and self._process.poll() is None
        is_open = not self._is_closed and not self._traffic.is_stopped
        return is_running and is_open and fetch_metrics(self._inner_metrics_port) is not None

    def _answer_ready(self) -> Answer:
        return (200, "") if self.is_ready() else (503, "not ready\n")

    def _answer_metrics(self) -> Answer:
        text = fetch_metrics(self._inner_metrics_port)
        return (503, "not ready\n") if text is None else (200, text)

    def wait(self) -> str | None:
        """Returns when a stop is asked for (None), or a process has ended: a model, `tritonserver` or `http_api`."""
        poll = select.poll()
        for descriptor in (self._stop_asked, *self._watched):
            poll.register(descriptor, select.POLLIN)
        ended = {descriptor for descriptor, _ in poll.poll()}
        return None if self._stop_asked in ended else self._watched[ended.pop()]

    def is_asked_to_stop_within(self, seconds: float) -> bool:
        """Waits for so long, or until it is."""
        return bool(select.select([self._stop_asked], [], [], seconds)[0])

    def ask_to_stop(self) -> None:
        """New requests are refused as unavailable from now on, and `wait` returns. For a signal's handler, too."""
        if not self._is_closed:
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
        if self._api is not None:
            self._api.kill()
        remove_shared_memory(self._run.name)

    def stop(self) -> None:
        """Ends the server; requests in flight are answered first, as far as `drain_seconds` go."""
        if self._is_closed:
            return
        self._traffic.stop()
        process = self._process
        if process is not None and process.poll() is None:
            # Triton server closes idle models first, and the engine of a loop is idle between two turns.
            self._traffic.wait_until_idle(self.config.drain_seconds, self.form, lambda: process.poll() is not None)
            if self._api is not None:
                self._api.stop()
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        self.kill()
        self._is_closed = True
        self._cleanup.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(config: ServerConfig) -> int:
    """Serves until SIGTERM, SIGINT or SIGHUP; exit status 0.

    A model whose process has ended would be missing for good, since Triton server 2.51 starts no other: then all is
    started again, and clients that ask again find it.

    Raises ServerError if the server does not become ready.
    """
    stop_signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with ExitStack() as cleanup:
        for number in stop_signals:
            cleanup.callback(signal.signal, number, signal.signal(number, _leave))
        server = cleanup.enter_context(Server(config))
        for number in stop_signals:
            signal.signal(number, lambda *_: server.ask_to_stop())
        early_ends = 0
        while True:
            server.start()
            _announce(server)
            started = time.monotonic()
            while (lost := server.wait()) == HTTP_API:  # the ensembles go on
                print("diffvqa: the process of the HTTP API has ended; starting it again", file=sys.stderr, flush=True)
                if server.is_asked_to_stop_within(_API_PAUSE_SECONDS):
                    return 0
                server.start_api()
            if lost is None:
                return 0
            print(f"diffvqa: the process of {lost} has ended; starting again", file=sys.stderr, flush=True)
            server.kill()
            # What ends right after every start is not to keep the machine busy with starting: 0, 2, 6, 14, 30 s.
            early_ends = early_ends + 1 if time.monotonic() - started < _EARLY_SECONDS else 1
            if server.is_asked_to_stop_within(min(2**early_ends - 2, _LONGEST_PAUSE_SECONDS)):
                return 0


def _leave(*_: object) -> None:
    """On a signal while engines are verified: nothing runs yet. As process 1 of a container it would be ignored."""
    sys.exit(0)


def _announce(server: Server) -> None:
    config = server.config
    forms = (
        f"{form} form, {config.backend} engines{f' of {metric}' if len(server.forms) > 1 else ''}"
        for metric, form in server.forms.items()
    )
    for line in (
        *forms,
        f"scoring at {server.url} (gRPC{', TLS' if config.tls else ''})",
        *(
            [f"scoring at http{'s' if config.tls else ''}://{config.host}:{config.http_api_port}/v1/score (HTTP, JSON)"]
            if config.http_api_port
            else ()
        ),
        f"health at http://{config.host}:{config.http_port}/v2/health/ready",
        f"metrics at http://{config.host}:{config.metrics_port}/metrics",
    ):
        print(f"diffvqa: {line}", file=sys.stderr, flush=True)


def _wait_for_port(host: str, port: int) -> None:
    """Returns once a port is free: a server whose starter was killed takes some seconds to end.

    Raises OSError where it stays taken. Triton server would say so too, in other words and after loading everything.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        try:
            socket.create_server((host, port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _run_folder(cleanup: ExitStack) -> Path:
    """A temporary folder for this run, locked as long as it lives; those of runs that were killed are removed.

    Its name is also that of the shared memory.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_RUN_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end_processes_of(folder)
            remove_shared_memory(folder.name)
            shutil.rmtree(folder)
    run = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix=_RUN_PREFIX)))
    held = cleanup.enter_context((run / "lock").open("wb"))
    fcntl.flock(held, fcntl.LOCK_EX)
    return run


def _die_with_parent() -> None:
    """In the child: a server whose starter was killed is stopped, too."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
