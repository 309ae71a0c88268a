"""Results as rows of Parquet: the fields of `VideoScore`, nested as in JSON, from the declarations of the classes."""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from diffvqa_rt.results import VideoScore

_PLAIN = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
# An image's patches are more than all else; `diffvqa score --format json` has them.
_LEFT_OUT = frozenset({"patch_maps"})


@functools.cache
def result_schema() -> pa.Schema:
    """The columns of a results' file: `id`, all of `VideoScore` but patch maps, and `error`, null where there is none.

    Of a failure all but `id`, `source`, `prompt` and `error` is null. The part names and stages, which are a metric's
    own, are the keys of maps.
    """
    return pa.schema([pa.field("id", pa.string()), *_fields(VideoScore), pa.field("error", pa.string())])


def result_type() -> pa.DataType:
    """A result as one struct, without `id` and `error`."""
    return pa.struct([field for field in result_schema() if field.name not in ("id", "error")])


def table_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A results' file's table of rows; what a row lacks is null."""
    return pa.Table.from_pylist(list(rows), schema=result_schema())


def _fields(schema: type) -> list[pa.Field]:
    hints = typing.get_type_hints(schema)
    names = (field.name for field in dataclasses.fields(schema))
    return [pa.field(name, _type(hints[name])) for name in names if name not in _LEFT_OUT]


def _type(hint: Any) -> pa.DataType:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if dataclasses.is_dataclass(hint):
        return pa.struct(_fields(typing.cast(type, hint)))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (one,) = [argument for argument in arguments if argument is not types.NoneType]
        return _type(one)
    if origin is tuple:
        return pa.list_(_type(arguments[0]))
    if origin is dict:
        return pa.map_(_type(arguments[0]), _type(arguments[1]))
    raise TypeError(f"{hint} has no column")
