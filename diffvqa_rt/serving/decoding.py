"""Decoding for requests: within a server's limits, in a process that may die of a video."""

from diffvqa_rt.decoding import DecodedVideo, IsolatedDecoder
from diffvqa_rt.errors import InputError, VideoDecodeError
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.serving.settings import RequestLimits
from diffvqa_rt.video.crops import ViewCutter
from diffvqa_rt.video.plan import DecodingPlan


class Decoder:
    """Decodes the videos of requests; where one ends the decoder's process, the next finds a new one."""

    def __init__(
        self, config: DiffVQAConfig, limits: RequestLimits, python: str, cutter: ViewCutter = "pillow"
    ) -> None:
        """A decoder in a process of the interpreter `python`.

        Args:
            config: what the network takes.
            limits: of each video.
            cutter: the library that makes the views; DALI, where its decoders on a GPU make those of other videos.
        """
        self._config = config
        self._limits = limits
        self._cutter = cutter
        self._decoder = IsolatedDecoder(limits, python)
        self._decoder.warm_up()

    def decode(
        self, video: bytes | memoryview, seed: int, crops: int, *, keep_interlaced: bool = False
    ) -> DecodedVideo:
        """The views of an encoded video; `keep_interlaced` leaves its interlaced frames combed.

        Raises:
            VideoDecodeError: no frame of it can be had, or not within the limits.
            InputError: the seed or the crops are out of range.
            DecoderStartError, DecoderFaultError: the decoder's process cannot be had, or is at fault.
        """
        self._check(video, crops)
        return self._decoder.views(
            bytes(video),
            self._config.frames,
            self._config.view_size,
            seed=seed,
            crops=crops,
            keep_interlaced=keep_interlaced,
            cutter=self._cutter,
        )

    def plan(self, video: bytes | memoryview, crops: int) -> DecodingPlan | None:
        """Returns the plan by which a GPU decodes the video; None if it is not for a GPU.

        Raises:
            VideoDecodeError, InputError, DecoderStartError, DecoderFaultError: as `decode`.
        """
        self._check(video, crops)
        return self._decoder.plan(bytes(video), self._config.frames)

    def close(self) -> None:
        self._decoder.close()

    def _check(self, video: bytes | memoryview, crops: int) -> None:
        limits = self._limits
        if len(video) > limits.max_request_bytes:
            raise VideoDecodeError(
                f"<bytes> is {len(video):,} bytes long, and this server takes at most {limits.max_request_bytes:,}"
            )
        if crops > limits.max_crops:
            raise InputError(f"crops is {crops}; this server takes at most {limits.max_crops}")
