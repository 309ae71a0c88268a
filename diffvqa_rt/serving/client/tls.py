"""Certificates of a client."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from diffvqa_rt.serving.settings import require_pem


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientTls:
    """PEM files: the authority that the server's certificate is from, and our own certificate where it asks for one.

    `server_name` is a name that the server's certificate has, where the host that it is asked at is none.
    """

    ca: Path | None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        require_pem("the authority of the server's certificate", self.ca)
        if self.cert is not None or self.key is not None:
            require_pem("the client's certificate", self.cert)
            require_pem("the key of the client's certificate", self.key)
        self.context()

    def context(self) -> ssl.SSLContext:
        """For a connection that trusts what gRPC's trusts. Raises ValueError where a file holds something else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.set_alpn_protocols(["h2"])
        try:
            context.load_verify_locations(self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except ssl.SSLError as error:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path)
            raise ValueError(f"{files}: no certificate, or not the key to it ({error}); expected PEM files") from error
        return context
