"""The HTTP API of a server: a socket, and the process behind it.

A stranger's body that would end that process ends neither the server nor whoever starts both.
"""

import contextlib
import dataclasses
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from diffvqa_rt.extras import EXTRAS, needs_package
from diffvqa_rt.serving.http_api.settings import ApiSettings, ServedNetwork
from diffvqa_rt.serving.settings import ServerConfig
from diffvqa_rt.serving.tritonserver import ServerError

GRACE_SECONDS = 5
"""For sending the last answers, once it is told to stop."""

HTTP_API = "http_api"
"""The process' name among those of a server."""


class HttpApi:
    """An HTTP API on a socket that listens from now on: who comes while its process is started again waits."""

    def __init__(self, host: str, port: int) -> None:
        """Raises OSError where the port is taken, ServerError where a package is not installed."""
        if missing := EXTRAS["http"].missing():
            raise ServerError(needs_package("--http-api", missing[0], "http"))
        self._listener = socket.create_server((host, port))
        self._settings: ApiSettings | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(
        self, config: ServerConfig, networks: tuple[ServedNetwork, ...], run: Path, traffic: Path
    ) -> ServerConfig:
        """Settles whom it asks, for what. Returns the server's config, in which it is let in where TLS asks who it is.

        Raises ServerError where the server's certificate is none.
        """
        inner, grpc_tls = config, None
        if config.tls is not None:
            from diffvqa_rt.serving.http_api.inner_tls import let_in

            tls, grpc_tls = let_in(config.tls, run)
            inner = dataclasses.replace(config, tls=tls)
        self._settings = ApiSettings(
            grpc_url=f"{config.host}:{config.port}",
            networks=networks,
            traffic=str(traffic),
            tls=config.tls,
            grpc_tls=grpc_tls,
        )
        return inner

    def start(self, environment: Mapping[str, str], in_child: Callable[[], None]) -> int:
        """Starts the process, in which `in_child` runs first. Returns its number."""
        assert self._settings is not None
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __package__, str(descriptor), self._settings.to_json()],
            # No proxy stands between it and the server beside it.
            env={**environment, "no_grpc_proxy": self._settings.grpc_url.rpartition(":")[0]},
            stdin=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,
            preexec_fn=in_child,
        )
        return self._process.pid

    def stop(self) -> None:
        """Ends the process once it has sent its answers; those that have no score by then are failures."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2 * GRACE_SECONDS)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "HttpApi":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._listener.close()
