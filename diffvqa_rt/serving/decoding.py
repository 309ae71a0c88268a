"""Decoding for requests: within a server's limits, in a process that may die of a video."""

from diffvqa_rt.decoding import IsolatedDecoder
from diffvqa_rt.errors import InputError, VideoDecodeError
from diffvqa_rt.metric import Config, Metric, Request
from diffvqa_rt.preparation import PreparedSource
from diffvqa_rt.serving.settings import RequestLimits
from diffvqa_rt.video.crops import Region
from diffvqa_rt.video.plan import DecodingPlan


class Decoder:
    """Decodes the videos of requests; where one ends the decoder's process, the next finds a new one."""

    def __init__(self, metric: Metric, config: Config, limits: RequestLimits, python: str, *, max_rows: int) -> None:
        """A decoder for a network, in a process of the interpreter `python`.

        `limits` are of each video, and `max_rows` is how many rows the engines take.
        """
        self._metric, self._config = metric, config
        self._limits, self._max_rows = limits, max_rows
        self._decoder = IsolatedDecoder(limits, python)
        self._decoder.warm_up()

    def decode(self, video: bytes | memoryview, request: Request) -> PreparedSource:
        """Makes the engines' input of an encoded video.

        Raises:
            VideoDecodeError: no frame of it can be had, or not within the limits.
            InputError: an option of the request is out of range, or the metric does not have it.
            DecoderStartError, DecoderFaultError: the decoder's process cannot be had, or is at fault.
        """
        self._check(video, request)
        prepared = self._decoder.prepare(bytes(video), self._metric, self._config, request)
        self._check_rows(prepared.rows)
        return prepared

    def plan(self, video: bytes | memoryview, request: Request) -> tuple[DecodingPlan, tuple[Region, ...]] | None:
        """Returns the plan by which a GPU decodes the video, and the crops' regions; None if it is not for a GPU.

        Raises:
            VideoDecodeError, InputError, DecoderStartError, DecoderFaultError: as `decode`.
        """
        self._check(video, request)
        planned = self._decoder.plan(bytes(video), self._metric, self._config, request)
        if planned is not None:
            self._check_rows(len(planned[1]))
        return planned

    def close(self) -> None:
        self._decoder.close()

    def _check(self, video: bytes | memoryview, request: Request) -> None:
        limits = self._limits
        if len(video) > limits.max_request_bytes:
            raise VideoDecodeError(
                f"<bytes> is {len(video):,} bytes long, and this server takes at most {limits.max_request_bytes:,}"
            )
        self._metric.check(request)
        if request.crops is not None and request.crops > limits.max_crops:
            raise InputError(f"crops is {request.crops}; this server takes at most {limits.max_crops}")
        if request.prompt is not None and (size := len(request.prompt.encode())) > limits.max_prompt_bytes:
            raise InputError(f"prompt is {size:,} bytes long; this server takes at most {limits.max_prompt_bytes:,}")
        self._check_rows((request.frames or 1) * (request.crops or 1))

    def _check_rows(self, rows: int) -> None:
        if rows > self._max_rows:
            raise InputError(
                f"crops × frames is {rows}; this server takes at most {self._max_rows}: ask for fewer crops or frames"
            )
