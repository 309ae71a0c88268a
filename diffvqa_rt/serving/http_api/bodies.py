"""The body of a request for scores, read as it arrives: files by multipart, or JSON with base64.

Videos lie in files without a name from the start, and JSON is parsed one body at a time, so that memory is not for a
stranger to fill. A body that cannot be read as a whole is refused; a video in it that cannot be read fails alone.
"""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator, Mapping
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest

from diffvqa_rt.errors import InputError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.registry import metric_named
from diffvqa_rt.serving.http_api.asking import Asked, Unreadable, Upload
from diffvqa_rt.serving.http_api.settings import ApiSettings
from diffvqa_rt.sources import several

MAX_RESULTS = 1000
OPTIONS = ("seed", "crops", "frames", "patch_maps", "keep_interlaced")
ITEM_KEYS = ("video", "name", "prompt")

_STALL_SECONDS = 30
_IN_MEMORY_BYTES = 1 << 20
_LONGEST_NAME = 4096
# A prompt beyond the server's limit is to get the server's sentence, and not one about parts.
_FIELD_TO_PROMPT = 4
_NUMBER = re.compile(r"-?[0-9]{1,30}")
_FLAGS = {"true": True, "false": False}

Pair = tuple[Upload | Unreadable, Any]


class Bodies:
    """Reads the bodies of requests to an API."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._parsing = asyncio.Lock()

    async def read(self, request: HttpRequest) -> Asked:
        """What a request asks for.

        Raises:
            HTTPException: it cannot be read, is too large, stalls, or asks for what its metric does not have.
            ClientDisconnect: its sender has gone.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._multipart(request)
        if kind == "application/json":
            return await self._json(request)
        raise HTTPException(415, f"Content-Type is {kind!r}; expected multipart/form-data or application/json")

    async def _multipart(self, request: HttpRequest) -> Asked:
        most = _FIELD_TO_PROMPT * self._settings.networks[0].limits.max_prompt_bytes
        limits = {"max_files": MAX_RESULTS, "max_fields": MAX_RESULTS + len(OPTIONS) + 1, "max_part_size": most}
        parser = _WholeParser(request.headers, self._chunks(request), **limits)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, f"the multipart body cannot be read ({error.message})") from error
        try:
            if not parser.is_whole:
                raise HTTPException(400, "the multipart body has no end; send its closing boundary")
            return self._asked(*_form_values(form))
        except BaseException:
            await form.close()
            raise

    async def _json(self, request: HttpRequest) -> Asked:
        with SpooledTemporaryFile(_IN_MEMORY_BYTES) as body:
            async for chunk in self._chunks(request):
                body.write(chunk)
            async with self._parsing:
                values, pairs = await asyncio.to_thread(_json_values, body)
        try:
            return self._asked(values, pairs)
        except BaseException:
            _close(pairs)
            raise

    async def _chunks(self, request: HttpRequest) -> AsyncGenerator[bytes, None]:
        """The body as it comes, for as long as it is not too large and goes on."""
        most = self._settings.max_body_bytes
        left, stream = most, aiter(request.stream())
        declared = request.headers.get("content-length", "0")
        while True:
            try:
                async with asyncio.timeout(_STALL_SECONDS):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise HTTPException(408, f"the body stopped for {_STALL_SECONDS} s; send it again") from None
            left -= len(chunk)
            if left < 0 or (declared.isdecimal() and int(declared) > most):
                sentence = f"the body is more than {most:,} bytes, the most that this server takes; send fewer videos"
                raise HTTPException(413, sentence)
            yield chunk

    def _asked(self, values: Mapping[str, Any], pairs: tuple[Pair, ...]) -> Asked:
        if unknown := sorted(values.keys() - {"metric", *OPTIONS}):
            known = ", ".join(("metric", *OPTIONS))
            raise HTTPException(400, f"{', '.join(unknown)} is no option; expected {known} and the videos")
        if not pairs:
            raise HTTPException(400, "there is no video; send at least one")
        if len(pairs) > MAX_RESULTS:
            raise HTTPException(400, f"{len(pairs):,} results are asked for; a request has at most {MAX_RESULTS:,}")
        served = [network.facts.metric for network in self._settings.networks]
        metric = values.get("metric", served[0])
        if metric not in served:
            raise HTTPException(400, f"metric is {metric!r}; this server has {', '.join(served)}")
        options = {name: value for name, value in values.items() if name != "metric"}
        try:
            metric_named(metric).check(Request(**options))
        except InputError as error:
            raise HTTPException(400, str(error)) from error
        return Asked(metric=metric, options=options, pairs=pairs)


class _WholeParser(MultiPartParser):
    """Starlette's parser, which says whether the body has ended: cut short, it would lose its last video in silence."""

    is_whole = False
    spool_max_size = _IN_MEMORY_BYTES

    def on_end(self) -> None:
        self.is_whole = True


def _form_values(form: FormData) -> tuple[dict[str, Any], tuple[Pair, ...]]:
    """The options, and the videos with their prompts."""
    values: dict[str, Any] = {}
    videos: list[Upload] = []
    prompts: list[str] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "video":
                raise HTTPException(400, f"{name} is a file; a file is a video, and its field is called video")
            videos.append(Upload(value.filename or f"video {len(videos) + 1}", value.file))
        elif name == "video":
            raise HTTPException(400, "video is text; send it as a file, with a file name")
        elif name == "prompt":
            prompts.append(value)
        elif name in values:
            raise HTTPException(400, f"{name} stands there twice; all videos of a request are scored alike")
        else:
            values[name] = int(value) if _NUMBER.fullmatch(value) else _FLAGS.get(value, value)
    if len(prompts) not in (0, 1, len(videos)):
        raise HTTPException(
            400, f"{len(prompts)} prompts for {len(videos)} videos; expected one for each, or a single one for all"
        )
    if not prompts:
        return values, tuple((video, None) for video in videos)
    in_order = prompts * len(videos) if len(prompts) == 1 else prompts
    return values, tuple(zip(videos, in_order, strict=True))


def _json_values(body: IO[bytes]) -> tuple[dict[str, Any], tuple[Pair, ...]]:
    body.seek(0)
    try:
        values = json.loads(body.read())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON ({error})") from error
    items = values.pop("videos", None) if isinstance(values, dict) else None
    if not isinstance(items, list):
        raise HTTPException(400, 'the body is no object with a list of videos; expected {"videos": [{"video": …}, …]}')
    pairs: list[Pair] = []
    items.reverse()
    try:
        # Each is let go of as soon as it is decoded.
        while items and len(pairs) <= MAX_RESULTS:
            pairs += _item(items.pop(), f"video {len(pairs) + 1}")
    except BaseException:
        _close(pairs)
        raise
    return values, tuple(pairs)


def _item(item: object, name: str) -> list[Pair]:
    """A video of a JSON body, once for each of its prompts."""
    try:
        if not isinstance(item, dict):
            raise InputError(f"{name} is a {type(item).__name__}; expected an object with its base64 under video")
        if isinstance(item.get("name"), str):
            name = item["name"][:_LONGEST_NAME]
        if unknown := sorted(item.keys() - set(ITEM_KEYS)):
            raise InputError(f"{name} has {', '.join(unknown)}; expected {', '.join(ITEM_KEYS)}")
        content = item.get("video")
        if not isinstance(content, str):
            raise InputError(f"{name} is a {type(content).__name__}; expected base64 under video")
        try:
            decoded = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"{name} is no base64 ({error}); encode the file's bytes") from error
    except InputError as error:
        return [(Unreadable(name, error), None)]
    file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 (`Asked.close` closes it)
    file.write(decoded)
    upload = Upload(name, file)
    prompts = item.get("prompt")
    return [(upload, prompt) for prompt in (several(prompts) if isinstance(prompts, list) else (prompts,))]


def _close(pairs: "tuple[Pair, ...] | list[Pair]") -> None:
    for video, _ in pairs:
        if isinstance(video, Upload):
            video.file.close()
