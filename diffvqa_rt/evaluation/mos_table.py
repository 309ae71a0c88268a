"""Mean opinion scores in one form, whatever file they came from; every complaint names the file and the line."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffvqa_rt.errors import MosTableError

Kind = Literal["video", "image"]
"""A data set holds the one or the other; also the word for one of them in sentences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MosRow:
    """One video or image, and its opinion.

    Attributes:
        name: the video's name as its table spells it; what score files call it by.
        video: its file.
        mos: mean opinion score, on the table's `mos_range`; higher is better. Where DMOS d is published, of which low
            is good, low + high − d.
        split: the published split, `train`, `validation`, `test` or `1080p`; None where none is published.
        content: the source that the video shares with its other versions; None where each is one of its own.
        reference: the file of that source, which need not be there; None where none is published.
        distortion: the type of what was done to that source; None where nothing is known to have been.
        prompt: the text that the video was generated from; None where it was not, or the text is not known.
        generator: the model that generated it; None where that is not known.
    """

    name: str
    video: Path
    mos: float
    split: str | None = None
    content: str | None = None
    reference: Path | None = None
    distortion: str | None = None
    prompt: str | None = None
    generator: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MosTable:
    """A data set. `name` is for files and arguments, `title` for people; rows have distinct names.

    Attributes:
        mos_range: opinions lie on it; labels for training are their places on it, from 0 to 1 (SPEC-diffv2iqa, D31).
        short_side: pixels that a picture's short side is shrunk to before it is scored; None for as it is.
    """

    name: str
    title: str
    mos_range: tuple[float, float]
    rows: tuple[MosRow, ...]
    kind: Kind = "video"
    short_side: int | None = None

    def select(self, split: str) -> tuple[MosRow, ...]:
        """The rows of one published split, in their order."""
        return tuple(row for row in self.rows if row.split == split)


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One record of a file: where it stands (`FILE, line 7`), and its cells by column, names in lower case."""

    where: str
    cells: Mapping[str, str]


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[SourceRow]:
    """The records of a CSV file with a header; column names are matched without case, blank lines are skipped.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: those that must be there, in lower case; others may be.

    Raises:
        MosTableError: the file cannot be read, lacks a column, or a line has more or fewer cells than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        require_columns(f"{path}, line 1", header, columns)
        for cells in reader:
            if not cells:
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise MosTableError(f"{where}: {len(cells)} cells, but the header has {len(header)}")
            yield SourceRow(where, dict(zip(header, (cell.strip() for cell in cells), strict=True)))
    except csv.Error as error:
        raise MosTableError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises MosTableError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MosTableError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise MosTableError(f"{path}, line {line}: not UTF-8 text") from error


def require_columns(where: str, header: Sequence[str], columns: Sequence[str]) -> None:
    """Raises MosTableError where a column is not in the header (both in lower case), or stands there twice."""
    for column in columns:
        if header.count(column) != 1:
            found = ", ".join(name for name in header if name) or "nothing"
            raise MosTableError(f"{where}: expected one column {column!r}; the header has: {found}")


def parse_number(where: str, what: str, text: str) -> float:
    """The finite number that a cell holds. Raises MosTableError with the place and the cell's text."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise MosTableError(f"{where}: the {what} is {text!r}; expected a number")
    return number


class MosTableBuilder:
    """Collects a data set's rows and refuses what no evaluation should be made of.

    Args:
        mos_range: the opinions of the files lie on it; None takes the lowest and the highest found.
        has_dmos: the files hold DMOS, of which low is good: turned over, so that what is built holds MOS. Needs a
            `mos_range`.
        require_videos: refuse a table with videos that are not there; otherwise the first place to look is kept.
    """

    def __init__(
        self,
        name: str,
        title: str,
        mos_range: tuple[float, float] | None,
        *,
        kind: Kind = "video",
        has_dmos: bool = False,
        short_side: int | None = None,
        require_videos: bool = True,
    ) -> None:
        self._name = name
        self._title = title
        self._mos_range = mos_range
        self._kind = kind
        self._has_dmos = has_dmos
        self._short_side = short_side
        self._require_videos = require_videos
        self._rows: dict[str, MosRow] = {}
        self._places: dict[str, str] = {}
        self._missing: list[tuple[str, Path]] = []

    def add(
        self,
        where: str,
        name: str,
        opinion: str,
        videos: Sequence[Path],
        *,
        split: str | None = None,
        content: str | None = None,
        reference: Path | None = None,
        distortion: str | None = None,
        prompt: str | None = None,
        generator: str | None = None,
    ) -> None:
        """A row.

        Args:
            where: the file and the line.
            name: the video's name in the table.
            opinion: the cell with its opinion score.
            videos: where its file may be; the first that exists is taken.
            split, reference, distortion, prompt, generator: as in `MosRow`.
            content: as in `MosRow`; videos of one prompt share it where it is not given.

        Raises:
            MosTableError: no name, one that appears twice, or an opinion that is no number or out of range.
        """
        if not name:
            raise MosTableError(f"{where}: the row names no {self._kind}")
        if name in self._rows:
            raise MosTableError(f"{where}: {name} appears twice; first in {self._places[name]}")
        video = next((path for path in videos if path.is_file()), None)
        if video is None:
            video = videos[0]
            self._missing.append((where, video))
        self._places[name] = where
        self._rows[name] = MosRow(
            name=name,
            video=video,
            mos=self._mos(where, opinion),
            split=split,
            content=content or prompt or None,
            reference=reference,
            distortion=distortion,
            prompt=prompt or None,
            generator=generator or None,
        )

    def _mos(self, where: str, opinion: str) -> float:
        what = "DMOS" if self._has_dmos else "MOS"
        value = parse_number(where, what, opinion)
        if self._mos_range is None:
            return value
        low, high = self._mos_range
        if not low <= value <= high:
            raise MosTableError(f"{where}: the {what} is {opinion}; {self._title}'s lie on {low:g} … {high:g}")
        return low + high - value if self._has_dmos else value

    def build(self, source: Path) -> MosTable:
        """The table. Raises MosTableError where `source`, a file or folder, gave no row, or videos are missing."""
        if not self._rows:
            raise MosTableError(f"{source} has no rows")
        if self._missing and self._require_videos:
            where, video = self._missing[0]
            others = f", nor are {len(self._missing) - 1} others of the table" if len(self._missing) > 1 else ""
            raise MosTableError(f"{where}: the {self._kind} {video} is not there{others}")
        rows = tuple(self._rows.values())
        opinions = [row.mos for row in rows]
        return MosTable(
            name=self._name,
            title=self._title,
            mos_range=self._mos_range or (min(opinions), max(opinions)),
            rows=rows,
            kind=self._kind,
            short_side=self._short_side,
        )
