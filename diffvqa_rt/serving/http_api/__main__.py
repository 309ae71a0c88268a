"""The HTTP API, as `process` starts it: python -m diffvqa_rt.serving.http_api SOCKET SETTINGS."""

import logging
import os
import socket
import ssl
import sys
from typing import Any

import uvicorn

from diffvqa_rt.serving.http_api.app import make_app
from diffvqa_rt.serving.http_api.asking import Asker
from diffvqa_rt.serving.http_api.process import GRACE_SECONDS
from diffvqa_rt.serving.http_api.settings import ApiSettings
from diffvqa_rt.serving.settings import ServerTls


class _Server(uvicorn.Server):
    """Gives up what is under way once it is told to stop: the answers, with failures in them, are sent."""

    def __init__(self, config: uvicorn.Config, asker: Asker) -> None:
        super().__init__(config)
        self._asker = asker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._asker.close()
        await super().shutdown(sockets)


def main(descriptor: str, settings_text: str) -> None:
    """Serves on a socket that listens, until SIGTERM."""
    settings = ApiSettings.from_json(settings_text)
    asker = Asker(settings)
    config = uvicorn.Config(
        make_app(settings, asker),
        http="h11",  # in Python alone: what a stranger sends meets no parser in C
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **(_tls_options(settings.tls) if settings.tls else {}),
    )
    config.load()
    if config.ssl is not None:
        config.ssl.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC
    # A warning for each body that a stranger has broken.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    _Server(config, asker).run(sockets=[socket.socket(fileno=int(descriptor))])


def _tls_options(tls: ServerTls) -> dict[str, Any]:
    return {
        "ssl_certfile": tls.cert,
        "ssl_keyfile": tls.key,
        "ssl_ca_certs": str(tls.client_ca) if tls.client_ca else None,
        "ssl_cert_reqs": ssl.CERT_REQUIRED if tls.client_ca else ssl.CERT_NONE,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(0)  # a thread may still wait for a server that is gone
