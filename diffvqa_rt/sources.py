"""The sources that are scored, by what callers give: videos, and for each its prompt or several."""

import os
from collections.abc import Iterable, Iterator, Sequence, Sized

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.decoding import EncodedSource

VideoSource = EncodedSource | NDArray[np.uint8]
"""A path of a file or of a folder of pictures, an encoded video's bytes, or RGB frames uint8 [T, H, W, 3]."""

Prompts = str | Sequence[str] | None
"""A source's prompt, several of them, or none."""


def pairs_of(
    sources: Iterable[VideoSource], prompts: Iterable[Prompts] | None
) -> Iterator[tuple[VideoSource, Prompts]]:
    """Each source with its prompts.

    Raises:
        TypeError: `sources` is a single one, or `prompts` a single text.
        ValueError: there are more of one than of the other; at the end, where that shows then alone.
    """
    if isinstance(sources, str | bytes | os.PathLike | np.ndarray):
        raise TypeError(f"sources is one {type(sources).__name__}; expected several videos, or use score()")
    if prompts is None:
        return ((source, None) for source in sources)
    if isinstance(prompts, str):
        raise TypeError("prompts is one text; expected one for each source")
    if isinstance(sources, Sized) and isinstance(prompts, Sized) and len(sources) != len(prompts):
        raise ValueError(f"prompts are {len(prompts)} for {len(sources)} sources; expected as many")
    return zip(sources, prompts, strict=True)


def several(prompts: Prompts) -> tuple[str | None, ...]:
    """A source's prompts one by one; None where there is none."""
    if prompts is None or isinstance(prompts, str):
        return (prompts,)
    return tuple(prompts) or (None,)


def source_name(source: object) -> str:
    """The text that results and messages call a source, whatever it is."""
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, np.ndarray):
        return "<array>"
    try:
        return str(os.fsdecode(source))  # type: ignore[arg-type]
    except Exception:  # no path, or one whose own code fails
        return f"<{type(source).__name__}>"
