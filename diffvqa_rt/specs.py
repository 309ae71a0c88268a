"""The words of an engine's contract: names, dtypes and shapes, for export, runtime and server.

The leading axis of every tensor is the batch V (`videos`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    """An array at an engine's border: a NumPy array, or one that the runtime keeps on its device until it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> NDArray: ...


Arrays = Mapping[str, Any]
"""Arrays by name: NumPy's, or those that a runtime keeps on its device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The number of videos an engine takes at a time: `min` … `max`, and `opt`, the number that it is tuned for."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelScale:
    """The scale of a network's pixels: (x / 255 − mean) / std, a number for each of the three channels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """From 0 … 255 to the network's own range, [..., 3, H, W] float32."""
        mean, std = (np.array(values)[:, None, None] for values in (self.mean, self.std))
        scaled = pixels.astype(np.float32)
        scaled /= (255 * std).astype(np.float32)
        scaled -= (mean / std).astype(np.float32)
        return scaled


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine's border.

    Attributes:
        name: the engine's.
        inputs, outputs: its tensors.
        is_per_frame: whether axis 1 holds frames that do not see each other.
        is_cut_by_row: whether a row is work enough for a thread of its own.
        pixels: of an input that is made from pixels, their scale.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_per_frame: bool
    pixels: Mapping[str, PixelScale] = field(default_factory=dict, hash=False)
    is_cut_by_row: bool = False

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.inputs)

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


class Engine(Protocol):
    """`max_videos`: how many videos it takes at a time; None where any number goes."""

    @property
    def spec(self) -> EngineSpec: ...
    @property
    def max_videos(self) -> int | None: ...

    def __call__(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> Mapping[str, Array]:
        """The named outputs (all of them by default). Raises ValueError where the inputs don't fit the spec.

        Takes NumPy arrays, and what engines of the same folder returned: a runtime with a device keeps its arrays there
        from one engine to the next, and they hold their values until the engine that returned them is called again.
        """
        ...
