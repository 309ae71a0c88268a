"""The words of an engine's contract: names, dtypes and shapes, for export, runtime and server.

The leading axis of every tensor is the batch V (`videos`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Precision = Literal["fp32", "fp16", "bf16"]
"""What the networks between float32 borders compute in."""

DType = Literal["float32", "int64", "float64", "int32", "uint8", "bool"]
"""Engines have the first two at their borders; the rest is what else crosses gRPC."""

Dimension = int | str

MANIFEST_NAME = "manifest.json"


class Array(Protocol):
    """What crosses an engine's border: a NumPy array, or one that the runtime keeps on its device until it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> NDArray: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """How many videos at a time an engine takes: `min` … `max`, and `opt`, the number that it is tuned for."""

    min: ClassVar[int] = 1  # a single video can always be scored
    opt: int = 1
    max: int = 4

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"profile is {self.opt}, {self.max} videos; expected 1 ≤ opt ≤ max")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor at a border. A dimension that is a string is dynamic, and means that everywhere."""

    name: str
    dtype: DType
    shape: tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine's border. `is_per_frame`: axis 1 holds frames that do not see each other."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_per_frame: bool

    def check_inputs(self, arrays: Mapping[str, Array]) -> None:
        """Raises ValueError where the arrays are not this engine's inputs: by name, dtype, rank or fixed dimension."""
        names = [spec.name for spec in self.inputs]
        if set(arrays) != set(names):
            raise ValueError(f"{self.name} takes {', '.join(names)}; got {', '.join(arrays) or 'nothing'}")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            array = arrays[spec.name]
            fits = array.dtype == np.dtype(spec.dtype) and array.ndim == len(spec.shape)
            for size, dimension in zip(array.shape, spec.shape, strict=False):
                fits = fits and size == (sizes.setdefault(dimension, size) if isinstance(dimension, str) else dimension)
            if not fits:
                raise ValueError(
                    f"{self.name} takes {spec.name} as {spec.dtype} {spec.shape}; got {array.dtype} {array.shape}"
                )
