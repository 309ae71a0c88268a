"""The folder of a catalogue's scores: what it holds already, and what is added, one whole file at a time.

    scores/scorer=3f2a9c…/0b71….parquet

A scorer is a network, its engines, the decoder's version and the options. Each has a folder of its own with one row a
video, and another build's scores stay beside it. A file's name is the hash of the videos in it.
"""

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffvqa_rt.batch.manifest import key_of
from diffvqa_rt.batch.objects import explained, files_below, folders_in, opened, remove_object, write_object
from diffvqa_rt.batch.schema import table_of
from diffvqa_rt.engines import BackendName, Manifest
from diffvqa_rt.engines.manifest import engines_sha256
from diffvqa_rt.metric import Request
from diffvqa_rt.video import DECODING_VERSION

_SCORER = "scorer="
_KEY_COLUMNS = ["id", "source", "prompt"]


def scorer_of(manifest: Manifest, backend: BackendName, request: Request) -> str:
    """The hash of all that decides a video's score, 16 hexadecimal digits."""
    decisive = {
        "provenance": manifest.provenance,
        "engines": engines_sha256(manifest.backends[backend].files),
        "prompt_files": manifest.prompt_files,
        "decoding": DECODING_VERSION,
        "options": [request.seed, request.crops, request.frames, request.keep_interlaced],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """The rows of one scorer in an output folder, a path or a URL."""

    out: str
    scorer: str

    @property
    def place(self) -> str:
        return f"{self.out.rstrip('/')}/{_SCORER}{self.scorer}"

    def resume(self) -> set[bytes]:
        """The keys of the videos that have a score. Rows without one are removed first: those videos are tried again.

        A video twice, from a run that went on while it was taken for ended, stays once.

        Raises:
            BatchError: the folder cannot be read.
            FileWriteError: it cannot be written.
        """
        done: set[bytes] = set()
        for file in _result_files(self.place):
            keys = _scored(file)
            kept = [key is not None and key not in done for key in keys]
            done.update(key for key in keys if key is not None)
            if not all(kept):
                self._rewrite(file, kept)
        return done

    def scored_by_others(self) -> set[bytes]:
        """The keys of the videos that another scorer has scored. Raises BatchError where the folder cannot be read."""
        places = (f"{self.out.rstrip('/')}/{name}" for name in folders_in(self.out) if name.startswith(_SCORER))
        files = (file for place in places if place != self.place for file in _result_files(place))
        return {key for file in files for key in _scored(file) if key is not None}

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Writes rows as a file of their own, which appears whole.

        Raises:
            FileWriteError, BatchError: it cannot be written.
        """
        keys = sorted(key_of(row["id"], row["source"], row["prompt"]) for row in rows)
        name = hashlib.blake2b(b"".join(keys), digest_size=16).hexdigest()
        write_object(f"{self.place}/{name}.parquet", _encoded(table_of(rows)))

    def _rewrite(self, file: str, kept: list[bool]) -> None:
        if not any(kept):
            remove_object(file)
            return
        with opened(file) as content:
            table = pq.read_table(content)
        write_object(file, _encoded(table.filter(pa.array(kept))))


class BlockWriter:
    """Collects rows, and writes them once there are enough or the oldest has waited long enough."""

    def __init__(self, folder: ResultsFolder, rows: int, seconds: float) -> None:
        self._folder = folder
        self._most_rows = rows
        self._most_seconds = seconds
        self._rows: list[dict[str, Any]] = []
        self._oldest = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row. Raises as `ResultsFolder.write`."""
        if not self._rows:
            self._oldest = time.monotonic()
        self._rows.append(row)
        if len(self._rows) >= self._most_rows or time.monotonic() - self._oldest >= self._most_seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what is there. Raises as `ResultsFolder.write`."""
        if self._rows:
            self._folder.write(self._rows)
            self._rows = []


def read_results(out: str) -> Iterator[Mapping[str, Any]]:
    """The rows of an output folder, maps as dictionaries. Raises BatchError where it cannot be read."""
    for name in folders_in(out):
        for file in _result_files(f"{out.rstrip('/')}/{name}") if name.startswith(_SCORER) else ():
            with opened(file) as content, explained(file, "read as results"):
                yield from pq.read_table(content).to_pylist(maps_as_pydicts="strict")


def _result_files(place: str) -> list[str]:
    return [file for file in files_below(place) if file.endswith(".parquet")]


def _scored(file: str) -> list[bytes | None]:
    """Each row's key; None where it has no score."""
    with opened(file) as content, explained(file, "read as results"):
        rows = pq.read_table(content, columns=[*_KEY_COLUMNS, "error"]).to_pylist()
    return [key_of(row["id"], row["source"], row["prompt"]) if row["error"] is None else None for row in rows]


def _encoded(table: pa.Table) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()
