"""Predictions for a data set: read from a file, or made by engines and kept as they are made.

A score file is CSV (`.csv`) with columns `video,score` or JSON Lines with those keys; what `diffvqa score --format csv`
and `--format json` print will do too (`source` in the place of `video`, and `raw_score`, which keeps the order of
scores beyond the range's ends, in the place of `score`).
"""

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import DiffVQAError, EvaluationError, MosTableError
from diffvqa_rt.evaluation.mos_table import MosRow, MosTable, SourceRow, parse_number, read_csv
from diffvqa_rt.evaluation.shrinking import read_shrunk
from diffvqa_rt.results import ScoringFailure, VideoScore
from diffvqa_rt.video import DECODING_VERSION

_KEYS = ("video", "source", "prompt", "score", "raw_score", "error")


class VideoScorer(Protocol):
    """Scores videos: `diffvqa_rt.Scorer`, or a stand-in."""

    def score_many(
        self,
        sources: Iterable[Path | NDArray[np.uint8]],
        *,
        prompts: Sequence[str] | None = None,
        seed: int,
        crops: int,
        batch: int,
    ) -> Iterator[VideoScore | ScoringFailure]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreStamp:
    """All that a kept score depends on beside the video. Scores of different stamps never mix.

    `engines_sha256`: of the engine files' own hashes, so that a build of the same weights in another precision counts
    as another. `decoding_version`: of the pixels that they saw.
    """

    weights_sha256: str
    engines_sha256: str
    backend: str
    seed: int
    crops: int
    decoding_version: int = DECODING_VERSION


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores by `MosRow.name`, and why others are missing, in sentences."""

    by_name: Mapping[str, float]
    failures: tuple[str, ...] = ()


def read_scores(path: Path, table: MosTable) -> Scores:
    """The scores that a file has for a table's videos; what it says of other videos is not used.

    An entry is for a video if it is the video's name in the table, or the path of its file (absolute, or relative to
    the current folder). A row of `diffvqa score` that reports an error counts as a failure.

    Raises:
        MosTableError: the file cannot be read or is malformed, an entry's score is no finite number, a video has two,
            there is none for any video of the table, or some are of a prompt and others are not.
    """
    names = {row.name: row.name for row in table.rows}
    files = {os.path.abspath(row.video): row.name for row in table.rows}
    by_name: dict[str, float] = {}
    failures: list[str] = []
    first_place: dict[bool, str] = {}
    for row in _read_entries(path):
        video = row.cells.get("video") or row.cells["source"]
        name = names.get(video) or files.get(os.path.abspath(video))
        if name is None:
            continue
        if error := row.cells.get("error"):
            failures.append(error)
            continue
        if name in by_name:
            raise MosTableError(f"{row.where}: {video} appears twice")
        by_name[name] = parse_number(row.where, "score", row.cells.get("raw_score") or row.cells["score"])
        first_place.setdefault(bool(row.cells.get("prompt")), row.where)
        if len(first_place) > 1:
            raise MosTableError(
                f"{row.where}: a score {'with' if row.cells.get('prompt') else 'without'} a prompt, unlike that in "
                f"{first_place[not row.cells.get('prompt')]}; the two do not compare, put them into two files"
            )
    if not by_name:
        example = table.rows[0].name
        raise MosTableError(f"{path} has no score for any {table.kind} of {table.title} (one of them is {example})")
    return Scores(by_name, tuple(failures))


def _read_entries(path: Path) -> Iterator[SourceRow]:
    if path.suffix != ".csv":
        yield from _read_json_lines(path)
        return
    for row in read_csv(path, ["score"]):
        if "video" not in row.cells and "source" not in row.cells:
            raise MosTableError(f"{path}, line 1: expected a column 'video' or 'source'")
        yield row


def _read_json_lines(path: Path) -> Iterator[SourceRow]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise MosTableError(f"{path} cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        entry = _parse_json(where, line)
        if ("video" not in entry and "source" not in entry) or ("score" not in entry and "error" not in entry):
            raise MosTableError(f"{where}: expected the keys 'video' (or 'source') and 'score'")
        if entry.get("prompt") is None:
            entry.pop("prompt", None)
        yield SourceRow(where, {key: str(entry[key]) for key in _KEYS if key in entry})


def _parse_json(where: str, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise MosTableError(f"{where}: not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise MosTableError(f"{where}: expected a JSON object")
    return entry


def prompts_of(table: MosTable) -> dict[str, str]:
    """The prompt of each row by its name; empty where none has one. Raises EvaluationError where only some have."""
    prompts = {row.name: row.prompt for row in table.rows if row.prompt is not None}
    if prompts and len(prompts) < len(table.rows):
        without = next(row.name for row in table.rows if row.prompt is None)
        raise EvaluationError(
            f"{table.title}: {len(table.rows) - len(prompts)} of {len(table.rows)} {table.kind}s have no prompt, "
            f"{without} for one; scores with a prompt and without one do not compare: make two tables of them, or give "
            "all a prompt, or none"
        )
    return prompts


def score_rows(
    scorer: VideoScorer,
    rows: Sequence[MosRow],
    path: Path,
    stamp: ScoreStamp,
    *,
    prompts: Mapping[str, str] | None = None,
    short_side: int | None = None,
    batch: int = 1,
    on_video: Callable[[], None] = lambda: None,
) -> Scores:
    """The scores of videos, each kept in a file as soon as it is there: an interrupted run goes on where it stopped.

    Failures are not kept, so that a later run tries those videos again.

    Args:
        path: JSON Lines, made if need be, appended to otherwise. A last line without an end, as a killed run may leave
            it, is dropped.
        stamp: what the scores depend on.
        prompts: of each row by its name, for a scorer that takes them; None or empty to score the videos alone.
        short_side: as in `MosTable`; pictures are then shrunk here, and the scorer gets their pixels.
        batch: how many videos go through the engines together; changes no score.
        on_video: called after each video, those that were kept before included.

    Raises:
        EvaluationError: the file holds scores with another stamp, or of other videos or prompts under these names.
        MosTableError: the file is malformed.
        OSError: the file cannot be written.
    """
    prompts = prompts or {}
    kept = _read_kept(path, stamp, {row.name: (_file_bytes(row.video), prompts.get(row.name)) for row in rows})
    for row in rows:
        if row.name in kept:
            on_video()
    remaining = [row for row in rows if row.name not in kept]
    failures: list[str] = []
    scoring = deque(remaining)
    sources: Iterable[Path | NDArray[np.uint8]] = [row.video for row in remaining]
    if short_side is not None:
        scoring.clear()
        sources = _shrink(remaining, short_side, scoring, failures, on_video)
    options: dict[str, Any] = {"prompts": [prompts[row.name] for row in remaining]} if prompts else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for result in scorer.score_many(sources, seed=stamp.seed, crops=stamp.crops, batch=batch, **options):
            row = scoring.popleft()
            if isinstance(result, ScoringFailure):
                failures.append(result.error if short_side is None else f"{row.video}: {result.error}")
            elif not math.isfinite(score := result.raw_score):  # clamped to the range, the order would be lost
                failures.append(f"{row.name}: its score is {score}")
            else:
                entry = {"video": row.name, "score": score, **asdict(stamp), "file_bytes": _file_bytes(row.video)}
                if prompts:
                    entry["prompt"] = prompts[row.name]
                file.write(json.dumps(entry).encode() + b"\n")
                file.flush()
                kept[row.name] = score
            on_video()
    return Scores({row.name: kept[row.name] for row in rows if row.name in kept}, tuple(failures))


def _shrink(
    rows: Sequence[MosRow],
    short_side: int,
    scoring: deque[MosRow],
    failures: list[str],
    on_video: Callable[[], None],
) -> Iterator[NDArray[np.uint8]]:
    """The shrunk pictures one by one: the row of each goes to `scoring`, and what cannot be read to `failures`."""
    for row in rows:
        try:
            picture = read_shrunk(row.video, short_side)
        except DiffVQAError as error:
            failures.append(str(error))
            on_video()
            continue
        scoring.append(row)
        yield picture


def _file_bytes(path: Path) -> int | None:
    """The size of a video's file, by which another one of the same name is told from it; None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _read_kept(path: Path, stamp: ScoreStamp, inputs: Mapping[str, tuple[int | None, str | None]]) -> dict[str, float]:
    """The kept scores by name; `inputs` are the bytes and the prompt of each row by its name."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    kept: dict[str, float] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        where = f"{path}, line {number}"
        entry = _parse_json(where, line)
        for field, wanted in asdict(stamp).items():
            if entry.get(field) != wanted:
                raise EvaluationError(
                    f"{where}: a score with {field} {entry.get(field)}, and this run has {wanted}; "
                    "choose another --out, or delete the file"
                )
        name = str(entry.get("video"))
        was = (entry.get("file_bytes"), entry.get("prompt"))
        now = inputs.get(name, was)
        if was[0] != now[0]:
            raise EvaluationError(
                f"{where}: {name} was another file ({was[0]} bytes, and now {now[0]}); "
                "choose another --out, or delete the file"
            )
        if was[1] != now[1]:
            raise EvaluationError(
                f"{where}: {name} had another prompt ({was[1]!r}, and now {now[1]!r}); "
                "choose another --out, or delete the file"
            )
        kept[name] = parse_number(where, "score", str(entry.get("score")))
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return kept
