"""The description of a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffvqa_rt.evaluation.mos_table import Kind, MosTableBuilder

ProtocolName = Literal["splits", "splits-by-image", "splits-by-video", "published", "whole"]
"""`splits` keeps all that shows one content on one side; `splits-by-image` does not (SPEC-diffv2iqa, D32).

`splits-by-video` is the same of videos, with equal shares of generators where they are known (SPEC-aigc-vqa, 9).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set: its layout, and its use.

    Attributes:
        title: its name in print.
        kind: what is in it.
        layout: what `read` expects, in a line for the command's help.
        mos_range: of its opinions; None where each table has its own.
        has_dmos: whether its files hold DMOS, of which low is good; the table has them turned over.
        short_side: pixels that a picture's short side is shrunk to before it is scored; None for as it is.
        protocol: how a model that was trained on it is evaluated (SPEC §5).
        read: adds the rows of a folder (or file) to a builder.
    """

    title: str
    kind: Kind
    layout: str
    mos_range: tuple[float, float] | None
    has_dmos: bool = False
    short_side: int | None = None
    protocol: ProtocolName = "splits"
    read: Callable[[Path, MosTableBuilder], None]
