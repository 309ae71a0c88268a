"""Health and metrics over HTTP, by us: Triton server's own HTTP is closed.

That of 2.51 ends with a segmentation fault at a message of 10 MB to any of its ports, and it knows nothing of a
restart, where `live` is to stay true. Only GET is answered here, and no message's body is read.
"""

import http.client
import http.server
import sys
import threading
from collections.abc import Callable
from typing import Any

_SLOW_CLIENT_SECONDS = 5

Answer = tuple[int, str]
"""HTTP status and text."""


class Endpoint:
    """Answers GET on some paths, from threads of its own, until it is closed."""

    def __init__(self, host: str, port: int, paths: dict[str, Callable[[], Answer]]) -> None:
        """Raises OSError where the port is taken."""

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = _SLOW_CLIENT_SECONDS

            def do_GET(self) -> None:
                answer = paths.get(self.path)
                status, text = answer() if answer else (404, f"only {' and '.join(paths)} are here\n")
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # a probe every few seconds is no news
                pass

        self._server = _QuietServer((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietServer(http.server.ThreadingHTTPServer):
    """A server whose clients may leave in the middle: that is no news either."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def fetch_metrics(port: int) -> str | None:
    """The text of Triton server on this machine under `/metrics`; None while it does not."""
    # Not by urllib, which would ask a proxy that the environment names.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SLOW_CLIENT_SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        return text if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
