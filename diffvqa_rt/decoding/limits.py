"""Limits of decoding one video."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from diffvqa_rt.video.container import MAX_FRAME_PIXELS

LEAST_DECODE_MEMORY_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """Limits of one video; one that takes more is refused.

    The defaults are for files of this machine: hours of 4K, and of ProRes, fit.

    Attributes:
        max_decode_seconds: from the first byte to the views, in the decoder's process.
        max_decode_memory_bytes: of that process's address space.
        max_frames: of the whole video, decoded or not; None for any number.
        max_frame_pixels: of its largest picture.
    """

    TAKER: ClassVar[str] = "the decoder"
    """The one that takes no more, in the sentence of a refusal."""

    max_decode_seconds: float = 600.0
    max_decode_memory_bytes: int = 4 << 30
    max_frames: int | None = None
    max_frame_pixels: int = MAX_FRAME_PIXELS

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                raise ValueError(f"{limit.name} is {value!r}; expected a number above 0")
        if self.max_decode_memory_bytes < LEAST_DECODE_MEMORY_BYTES:
            raise ValueError(
                f"max_decode_memory_bytes is {self.max_decode_memory_bytes >> 20:,} MiB; expected at least "
                f"{LEAST_DECODE_MEMORY_BYTES >> 20:,}, which a decoder's process takes before it has a video"
            )
