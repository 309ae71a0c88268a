"""What a server and the processes of its models are told: frozen, checked, and the same in both."""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from diffvqa_rt.decoding import DecodeLimits
from diffvqa_rt.engines import BackendName
from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.errors import EngineMismatchError
from diffvqa_rt.files import sha256_of
from diffvqa_rt.serving.models import Form
from diffvqa_rt.specs import MANIFEST_NAME


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits(DecodeLimits):
    """The limits of one request. One that asks for more is refused, and no other request notices.

    Attributes:
        max_decode_seconds, max_decode_memory_bytes, max_frames, max_frame_pixels: as in `DecodeLimits`, and narrower;
            8K pictures by default.
        max_request_bytes: of the encoded video. Triton server itself reads messages of up to 2 GiB before that.
        max_crops: crop positions.
        max_prompt_bytes: of the prompt in UTF-8.
    """

    TAKER: ClassVar[str] = "this server"

    max_decode_seconds: float = 30.0
    max_frames: int = 200_000
    max_frame_pixels: int = 8192 * 4320
    max_request_bytes: int = 256 << 20
    max_crops: int = 16
    max_prompt_bytes: int = 16 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSettings:
    """The settings of a served model's process; it crosses over as one string, since Triton server knows no other.

    Attributes:
        form: who plays the engines.
        engines: the engine folder.
        manifest_sha256: of its manifest when the server started. A folder rebuilt since would mix two networks.
        backend: which of the folder's engines to play.
        threads: CPU threads of an engine; all that the process may use if None.
        python: the interpreter for the decoder's process.
        traffic: the folder of the server's `Traffic`.
        limits: what a request may ask for.
        max_rows: how many rows the engines take at a time, crops or crops of frames.
    """

    form: Form
    engines: str
    manifest_sha256: str
    backend: BackendName
    threads: int | None
    python: str
    traffic: str
    limits: RequestLimits
    max_rows: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StageSettings":
        """The inverse of `to_json`. Raises TypeError for a name that it does not know."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "limits": RequestLimits(**values["limits"])})

    def manifest(self) -> Manifest:
        """The folder's manifest. Raises EngineMismatchError where it is not the one that the server started with."""
        folder = Path(self.engines)
        manifest = Manifest.read(folder)
        if manifest_sha256(folder) != self.manifest_sha256:
            raise EngineMismatchError(
                f"{folder / MANIFEST_NAME} changed since the server started; start the server again"
            )
        return manifest


def manifest_sha256(folder: Path) -> str:
    """The hash of an engine folder's manifest. Raises EngineMismatchError where it cannot be read."""
    path = folder / MANIFEST_NAME
    try:
        return sha256_of(path)
    except OSError as error:
        raise EngineMismatchError(f"{path} cannot be read ({error.strerror}); build the engines again") from error


def require_pem(what: str, path: Path | None) -> None:
    """Raises ValueError unless the path is a file."""
    if path is None or not path.is_file():
        raise ValueError(f"{what} is {path}; expected a file in PEM format")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerTls:
    """PEM files for gRPC and the HTTP API. With `client_ca`, only clients with a certificate from it are answered."""

    cert: Path | None
    key: Path | None
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        require_pem("the server's certificate", self.cert)
        require_pem("the key of the server's certificate", self.key)
        if self.client_ca is not None:
            require_pem("the authority of the clients' certificates", self.client_ca)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """A server: what it plays, where it listens, what it takes.

    Attributes:
        engines: the engine folder, or several of different metrics.
        backend: which of their engines to play.
        threads: CPU threads of an engine; all that the process may use if None.
        host: the address to listen on; only this machine reaches the default.
        port, http_port, metrics_port: gRPC for requests; HTTP for health alone; Prometheus metrics.
        http_api_port: HTTP and JSON for requests; None without.
        trace_url: where the traces of requests go, to a collector of OpenTelemetry; None without.
        limits: what one request may ask for.
        tls: certificates for gRPC and the HTTP API; without them they are in the clear.
        drain_seconds: how long requests in flight have to finish once the server is told to stop.
    """

    engines: Path | tuple[Path, ...]
    backend: BackendName = "onnx"
    threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    http_api_port: int | None = None
    trace_url: str | None = None
    limits: RequestLimits = field(default_factory=RequestLimits)
    tls: ServerTls | None = None
    drain_seconds: int = 60

    @property
    def folders(self) -> tuple[Path, ...]:
        """The engine folders."""
        return self.engines if isinstance(self.engines, tuple) else (self.engines,)

    @property
    def ports(self) -> tuple[int, ...]:
        """All that it listens on."""
        api = () if self.http_api_port is None else (self.http_api_port,)
        return (self.port, self.http_port, self.metrics_port, *api)

    @property
    def is_loopback(self) -> bool:
        """True where only this machine reaches `host`."""
        return self.host == "localhost" or self.host.startswith("127.")

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError("engines is (); expected an engine folder, or several")
        if ":" in self.host:
            raise ValueError(f"host is {self.host!r}; expected a name or an IPv4 address")
        ports = self.ports
        if len(set(ports)) < len(ports) or not all(0 < port < 1 << 16 for port in ports):
            names, count = "port, http_port and metrics_port", "three"
            if self.http_api_port is not None:
                names, count = "port, http_port, metrics_port and http_api_port", "four"
            raise ValueError(f"{names} are {ports}; expected {count} different ones below 65536")
        if self.trace_url is not None and not re.fullmatch(r"https?://[!-~]+", self.trace_url):
            raise ValueError(
                f"trace_url is {self.trace_url!r}; expected the address of a collector, such as "
                "http://localhost:4318/v1/traces"
            )
