"""Results from files, checked against the declaration of `VideoScore`: JSON Lines, and Parquet of `diffvqa batch`."""

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffvqa_rt.errors import ReportError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.results import ScoringFailure, VideoScore


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A video's score, and the id that a catalogue gave it; None where it gave none."""

    id: str | None
    score: VideoScore


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultsFile:
    """The rows of a file or folder of results.

    Attributes:
        path: of the file.
        entries: those with a score.
        failures: videos that could not be scored.
        problems: a sentence for each row that is no result.
    """

    path: Path
    entries: tuple[Entry, ...]
    failures: tuple[ScoringFailure, ...]
    problems: tuple[str, ...]


def read_results(path: Path) -> ResultsFile:
    """The results of a file: lines of JSON, or Parquet (`.parquet`, or a folder of such files).

    Raises:
        ReportError: the file cannot be read, or is Parquet and pyarrow is not installed.
    """
    is_parquet = path.is_dir() or path.suffix == ".parquet"
    entries, failures, problems = [], [], []
    for place, row in _parquet_rows(path) if is_parquet else _json_rows(path):
        try:
            if not isinstance(row, Mapping):
                raise ValueError("it is no JSON object; expected what diffvqa score --format json prints")
            if row.get("error") is not None:
                failures.append(_object(ScoringFailure, row, ""))
            else:
                name = row.get("id")
                entries.append(Entry(id=name if isinstance(name, str) else None, score=_checked(row)))
        except ValueError as error:
            problems.append(f"{place} is left out: {error}")
    return ResultsFile(path=path, entries=tuple(entries), failures=tuple(failures), problems=tuple(problems))


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ReportError(f"{path} cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield f"line {number} of {path}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise ReportError(needs_package("Parquet", "pyarrow", "batch")) from error
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ReportError(f"the folder {path} has no .parquet file; give what diffvqa batch --out wrote")
    for file in files:
        try:
            rows = ParquetFile(file).read().to_pylist(maps_as_pydicts="strict")
        except (OSError, pa.ArrowException) as error:
            raise ReportError(f"{file} cannot be read as Parquet ({error})") from error
        for number, row in enumerate(rows, 1):
            yield f"row {number} of {file}", row


def _checked(row: Mapping[str, Any]) -> VideoScore:
    """A row as a result whose parts fit each other. Raises ValueError where they do not."""
    score = _object(VideoScore, row, "")
    frames = len(score.timestamps_seconds)
    for name in ("frame_scores", "frame_weights"):
        if len(getattr(score, name)) not in (0, frames):
            raise ValueError(f"{name} has {len(getattr(score, name))} values; expected {frames}, as timestamps_seconds")
    if score.score_range[0] >= score.score_range[1]:
        raise ValueError(f"score_range is {list(score.score_range)}; expected its low end first")
    if score.patch_maps is not None:
        maps = score.patch_maps
        shapes = [np.shape(_numbers(values)) for values in (maps.scores, maps.weights)]
        if len(shapes[0]) != 5 or 0 in shapes[0] or shapes[0] != shapes[1] or shapes[0][2] != len(maps.parts):
            raise ValueError(
                f"patch_maps are of shapes {shapes[0]} and {shapes[1]}; expected five axes, the third parts"
            )
    return score


def _numbers(values: Any) -> np.ndarray:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("patch_maps are not arrays of numbers") from error
    if not np.isfinite(numbers).all():
        raise ValueError("patch_maps have values that are not finite")
    return numbers


@functools.cache
def _hints(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema)


def _object(schema: Any, values: Any, name: str) -> Any:
    """The dataclass made of these values; what it does not know is passed over."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is {values!r:.60}; expected an object")
    arguments = {}
    for field in dataclasses.fields(schema):
        full_name = f"{name}.{field.name}" if name else field.name
        if field.name in values:
            value = values[field.name]
            # A catalogue's row has null for what this class has a default for.
            if value is not None or field.default is dataclasses.MISSING is field.default_factory:
                arguments[field.name] = _value(_hints(schema)[field.name], value, full_name)
        elif field.default is dataclasses.MISSING is field.default_factory:
            raise ValueError(f"it has no {full_name}; expected what diffvqa score --format json prints")
    return schema(**arguments)


def _value(hint: Any, value: Any, name: str) -> Any:
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _object(hint, value, name)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (one,) = [argument for argument in arguments if argument is not types.NoneType]
        return None if value is None else _value(one, value, name)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{name} has {len(value)} values; expected {len(kinds)}")
        return tuple(
            _value(kind, item, f"{name}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _value(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return value
    expected = {float: "a finite number", str: "a text", int: "a whole number", bool: "true or false", tuple: "a list"}
    raise ValueError(f"{name} is {value!r:.60}; expected {expected.get(origin or hint, 'an object')}")
