"""The paths of the HTTP API: scores, what plays, the schema, and a page for a person, which loads nothing."""

import asyncio
import dataclasses
import html
import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from diffvqa_rt import __version__
from diffvqa_rt.results import ScoringFailure, VideoScore
from diffvqa_rt.serving.http_api.asking import Answered, Asker
from diffvqa_rt.serving.http_api.bodies import MAX_RESULTS, Bodies
from diffvqa_rt.serving.http_api.settings import ApiSettings, ServedNetwork
from diffvqa_rt.serving.traffic import Traffic

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'",
    "Cache-Control": "no-store",
}
_CLIENT_LEFT = 499
_LONGEST_SENTENCE = 1000
"""Of a refusal: it names what was sent, which may be long."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """A result for each video and prompt, in their order."""

    results: list[VideoScore | ScoringFailure]


@dataclasses.dataclass(frozen=True, slots=True)
class Networks:
    """The networks that the server plays; a request that names no metric is the first one's."""

    models: list[ServedNetwork]


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A sentence that says why nothing of a request was done."""

    error: str


def make_app(settings: ApiSettings, asker: Asker) -> FastAPI:
    """The API, as an application that uvicorn serves."""
    app = FastAPI(
        title="diffvqa_rt",
        version=__version__,
        description="Quality scores of videos and pictures without a reference.",
        # FastAPI's own pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    bodies, traffic = Bodies(settings), Traffic(Path(settings.traffic))

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return _json({"error": str(error.detail)[:_LONGEST_SENTENCE]}, error.status_code)

    @app.post(
        "/v1/score",
        summary="Score videos",
        description=f"Scores up to {MAX_RESULTS:,} videos and prompts, and answers in their order. 200: a video has a "
        "score; those that have none have `error`. 422: none has, and the videos are at fault; 503: the server is.",
        response_model=Scores,
        responses={status: {"model": Scores} for status in (422, 503)}
        | {status: {"model": Refusal} for status in (400, 408, 413, 415)},
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def score(request: Request) -> Response:
        if traffic.is_stopped:
            raise HTTPException(503, "this server is stopping; ask again in a moment")
        try:
            asked = await bodies.read(request)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_LEFT)  # which nobody reads
        asking = asyncio.ensure_future(asker.ask(asked))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return Response(status_code=_CLIENT_LEFT)
            return await asyncio.to_thread(_answer, asking.result())
        finally:
            asking.cancel()
            leaving.cancel()
            asked.close()

    @app.get("/v1/model", summary="The networks that play, and what they take", response_model=Networks)
    async def model() -> Response:
        return _json({"models": [dataclasses.asdict(network) for network in settings.networks]})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(_page(app.openapi()), headers=_SAFE)

    return app


async def _left(request: Request) -> None:
    """Returns when the sender of a request has gone; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(answers: list[Answered]) -> Response:
    results = [answer.result for answer in answers]
    status = 200
    if not any(isinstance(result, VideoScore) for result in results):
        status = 503 if any(answer.is_servers_fault for answer in answers) else 422
    return _json({"results": [result.as_dict() for result in results]}, status)


def _json(values: dict[str, Any], status: int = 200) -> Response:
    # As `diffvqa score --format json` writes: a number's text is the number, bit for bit.
    return Response(json.dumps(values), status, _SAFE, "application/json")


def _page(schema: dict[str, Any]) -> str:
    rows = (
        f"<dt><code>{method.upper()} {html.escape(path)}</code><dd>{html.escape(does['summary'])}"
        for path, methods in schema["paths"].items()
        for method, does in methods.items()
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>diffvqa_rt {__version__}</title>"
        f"<h1>diffvqa_rt {__version__}</h1><p>{html.escape(schema['info']['description'])}"
        f"<dl>{''.join(rows)}</dl><p><a href=/openapi.json>openapi.json</a> says what they take and give."
    )


def _body_of(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"schema": {"type": "object", "properties": properties, "required": required, "additionalProperties": False}}


_OPTIONS: dict[str, Any] = {
    "metric": {"type": "string", "description": "by which network; the first of /v1/model by default"},
    "seed": {"type": "integer", "minimum": 0, "default": 0},
    "crops": {"type": "integer", "minimum": 1},
    "frames": {"type": "integer", "minimum": 1},
    "patch_maps": {"type": "boolean", "default": False},
    "keep_interlaced": {"type": "boolean", "default": False},
}
_TEXT = {"type": "string"}
_VIDEO = {
    "type": "object",
    "properties": {
        "video": {"type": "string", "contentEncoding": "base64"},
        "name": {"type": "string", "description": "the source's name in the result"},
        "prompt": {
            "anyOf": [_TEXT, {"type": "array", "items": _TEXT}],
            "description": "the text that it was made from; several give a result each",
        },
    },
    "required": ["video"],
    "additionalProperties": False,
}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": _body_of(
            {
                "video": {"type": "array", "items": {"type": "string", "format": "binary"}},
                "prompt": {"type": "array", "items": _TEXT, "description": "one for each video, or a single one"},
                **_OPTIONS,
            },
            ["video"],
        ),
        "application/json": _body_of({"videos": {"type": "array", "items": _VIDEO}, **_OPTIONS}, ["videos"]),
    },
}
"""Both bodies that `bodies` reads, for the schema."""
