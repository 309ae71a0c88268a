"""The settings of the HTTP API's process; they cross over as one text."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffvqa_rt.metric import ResizedBy
from diffvqa_rt.results import ModelFacts
from diffvqa_rt.scoring import model_facts
from diffvqa_rt.serving.client import ClientTls
from diffvqa_rt.serving.settings import RequestLimits, ServerTls, StageSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedNetwork:
    """A network that a server plays: what it is, and what a request may ask of it.

    Attributes:
        title: the name that people know its metric by.
        description: what it takes, and what it does to it.
        options: the names of what a request may say of how a video is scored.
        limits: what a request may ask for.
        facts: what every result says of it.
    """

    title: str
    description: str
    options: tuple[str, ...]
    limits: RequestLimits
    facts: ModelFacts

    @classmethod
    def of(cls, settings: StageSettings) -> "ServedNetwork":
        """The network that served models with these settings are of."""
        manifest = settings.manifest()
        views_by: ResizedBy = "dali" if settings.form == "production" else "pillow"
        return cls(
            title=manifest.metric.title,
            description=manifest.config.describe(),
            options=("seed", *sorted(manifest.metric.options), "keep_interlaced"),
            limits=settings.limits,
            facts=model_facts(manifest, settings.backend, views_by),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiSettings:
    """An HTTP API: whom it asks, and what it takes.

    Attributes:
        grpc_url: HOST:PORT of the server's gRPC.
        networks: what the server plays; the first is asked where a request names no metric.
        traffic: the folder of the server's `Traffic`.
        tls: its certificates for clients; in the clear without.
        grpc_tls: those by which it asks the server.
        deadline_seconds: for each video.
    """

    grpc_url: str
    networks: tuple[ServedNetwork, ...]
    traffic: str
    tls: ServerTls | None = None
    grpc_tls: ClientTls | None = None
    deadline_seconds: float = 300.0

    @property
    def max_body_bytes(self) -> int:
        """The most bytes of a request's body: one video of the largest size fits in base64, and several as files."""
        return 2 * self.networks[0].limits.max_request_bytes

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str)  # paths

    @classmethod
    def from_json(cls, text: str) -> "ApiSettings":
        """The inverse of `to_json`. Raises TypeError for a name that it does not know."""
        values: dict[str, Any] = json.loads(text)
        values["networks"] = tuple(map(_network, values["networks"]))
        if (tls := values["tls"]) is not None:
            values["tls"] = ServerTls(**_paths(tls))
        if (tls := values["grpc_tls"]) is not None:
            name = tls.pop("server_name")
            values["grpc_tls"] = ClientTls(**_paths(tls), server_name=name)
        return cls(**values)


def _paths(values: dict[str, str | None]) -> dict[str, Path | None]:
    return {name: Path(value) if value else None for name, value in values.items()}


def _network(values: dict[str, Any]) -> ServedNetwork:
    facts = values["facts"]
    facts = ModelFacts(**{**facts, "score_range": tuple(facts["score_range"]), "parts": tuple(facts["parts"])})
    limits = RequestLimits(**values["limits"])
    return ServedNetwork(**{**values, "options": tuple(values["options"]), "limits": limits, "facts": facts})
