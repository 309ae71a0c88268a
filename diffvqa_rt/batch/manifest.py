"""The videos of a catalogue: files, folders, patterns, and tables with a row a video."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

import pyarrow as pa
import pyarrow.parquet as pq

from diffvqa_rt.batch.objects import explained, files_below, files_like, is_url, local_path, opened
from diffvqa_rt.errors import BatchError
from diffvqa_rt.video.sequence import SUFFIXES as PICTURE_SUFFIXES

SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv", ".y4m"),
    *(".gif", *PICTURE_SUFFIXES),
)
"""The ends of names that are a folder's videos and images."""

_COLUMNS = ("video", "prompt", "id")
_MAGIC = frozenset("*?[")
_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A video of a catalogue.

    Attributes:
        id: the caller's name for it; the video's own by default, and a row's place (`list.csv, line 7`) if it is bad.
        video: a path or URL; empty where a row names none.
        prompt: the text that it was made from.
        error: why it cannot be scored; None where nothing is known to be wrong.
    """

    id: str
    video: str
    prompt: str | None = None
    error: str | None = None

    @property
    def key(self) -> bytes:
        """A digest that tells it from every other: 16 bytes, since a catalogue has millions."""
        return key_of(self.id, self.video, self.prompt)


def key_of(id: str, video: str, prompt: str | None) -> bytes:
    """The digest of an entry that has these."""
    return hashlib.blake2b(json.dumps([id, video, prompt]).encode(), digest_size=16).digest()


def read_entries(places: Iterable[str]) -> Iterator[Entry]:
    """The videos in the order of the places; one that comes twice is bad the second time.

    Args:
        places: each a table (`.csv`, `.parquet`), a folder, a pattern, or a video; a path or a URL. Paths in a table
            are relative to its folder.

    Raises:
        BatchError: a place is not there, or a table cannot be read at all.
    """
    seen: set[bytes] = set()
    for where, entry in _all(places):
        if entry.error is None:
            # An id is the caller's word that it is one; without ids, a video counts again with another prompt.
            name = key_of(entry.id, "", None) if entry.id != entry.video else entry.key
            if name in seen:
                entry = _bad(where, entry.video, f"{entry.id} is there already; give each row an id of its own")
            seen.add(name)
        yield entry


def _all(places: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    for place in places:
        for file in _files(place):
            if file.lower().endswith(".csv"):
                yield from _checked(file, _csv_rows(file))
            elif file.lower().endswith(".parquet"):
                yield from _checked(file, _parquet_rows(file))
            else:
                yield file, Entry(id=file, video=file)


def _files(place: str) -> list[str]:
    """The files that a place stands for: of a folder those that look like videos, of a pattern all."""
    is_folder = place.endswith("/") or (not is_url(place) and os.path.isdir(local_path(place)))
    if _MAGIC & set(place) and not os.path.exists(local_path(place)):
        if not (found := files_like(place)):
            raise BatchError(f"{place} matches no file; check the pattern")
        return found
    if not is_folder and PurePath(place).suffix:
        return [place]  # where it is not there, its own row says so
    if not is_folder and not is_url(place):
        raise BatchError(f"{place} is not there; expected a table, a folder, a pattern or a video")
    found = [file for file in files_below(place) if file.lower().endswith(SUFFIXES)]
    if not found:
        raise BatchError(f"{place} holds no video or image; expected files that end in {', '.join(SUFFIXES)}")
    return found


Row = tuple[str, Mapping[str, object] | str]
"""Where a row stands, and its cells by column in lower case, or what is wrong with it."""


def _csv_rows(table: str) -> Iterator[Row]:
    with opened(table) as file, explained(table, "read as a table"):
        reader = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), strict=True)
        columns = [name.strip().lower() for name in next(reader, [])]
        _refuse_columns(table, columns)
        for cells in reader:
            where = f"{table}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(columns):
                yield where, f"has {len(cells)} cells, and the header {len(columns)}"
            else:
                yield where, dict(zip(columns, cells, strict=True))


def _parquet_rows(table: str) -> Iterator[Row]:
    with opened(table) as file, explained(table, "read as a table"):
        parquet = pq.ParquetFile(file)
        names = {name.lower(): name for name in parquet.schema_arrow.names}
        _refuse_columns(table, list(names))
        wanted = {column: names[column] for column in _COLUMNS if column in names}
        number = 0
        for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=list(wanted.values())):
            for cells in pa.Table.from_batches([batch]).to_pylist():
                number += 1
                yield f"{table}, row {number}", {column: cells[name] for column, name in wanted.items()}


def _refuse_columns(table: str, columns: list[str]) -> None:
    if "video" not in columns:
        raise BatchError(f"{table} has no column video, but {', '.join(columns) or 'none'}; name it so")


def _checked(table: str, rows: Iterator[Row]) -> Iterator[tuple[str, Entry]]:
    for where, cells in rows:
        if isinstance(cells, str):
            yield where, _bad(where, "", cells)
            continue
        video, prompt, id = (_text(cells.get(column)) for column in _COLUMNS)
        if wrong := [text for text in (video, prompt, id) if not isinstance(text, str | None)]:
            yield where, _bad(where, "", f"has {wrong[0]!r} where a text should be")
        elif not video:
            yield where, _bad(where, "", "names no video")
        else:
            path = _beside(table, str(video))
            yield where, Entry(id=str(id or path), video=path, prompt=None if prompt is None else str(prompt))


def _text(cell: object) -> object:
    """A cell; None where it is empty, and numbers as they are written, since ids may be such."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    return str(cell) if isinstance(cell, int) else cell


def _beside(table: str, video: str) -> str:
    """A video's path from where the table is, unless it is whole by itself."""
    if "://" in video or os.path.isabs(video):
        return video
    folder = table.rpartition("/")[0]
    return f"{folder}/{video}" if folder else video


def _bad(where: str, video: str, error: str) -> Entry:
    return Entry(id=where, video=video, error=f"{where}: {error}")
