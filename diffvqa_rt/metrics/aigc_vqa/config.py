"""The shape of an AIGC-VQA network, as frozen data. Nothing here imports torch."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from diffvqa_rt.checks import require

PATCH_SIZE = (2, 4, 4)
"""Frames, rows and columns of a patch of the technical and the aesthetic backbone."""

STAGES = 4
"""Of both backbones; the grid is halved between them."""

_CELL = PATCH_SIZE[1] * 2 ** (STAGES - 1)  # the side in pixels that one position of the last stage covers


@dataclass(frozen=True, kw_only=True, slots=True)
class SwinConfig:
    """The technical backbone, a Video Swin with gated relative position biases (SPEC §3).

    Attributes:
        width: C, the channels of the first stage; each next one has twice as many.
        depths, heads: of the four stages.
        window: in patches: frames, rows, columns.
        drop_path: the last block's stochastic depth in training; it rises from 0.
    """

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: tuple[int, int, int]
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        _check_four("depths", self.depths)
        _check_four("heads", self.heads)
        for heads, width in zip(self.heads, self.widths, strict=True):
            require(width % heads == 0, "heads", self.heads, f"divisors of the stages' widths {self.widths}")

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(STAGES))


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvNextConfig:
    """The aesthetic backbone, a ConvNeXt inflated to video (SPEC §4)."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        _check_four("widths", self.widths)
        _check_four("depths", self.depths)


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """The alignment branch's ViT (SPEC §5)."""

    width: int
    depth: int
    heads: int
    patch_size: int = 16
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width ({self.width})")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """The ST-Adapter between vision and text encoder (eq. 5); without one the tokens pass as they are (Table 5).

    Attributes:
        bottleneck: the channels of its convolution.
        kernel: of that: frames, rows, columns.
    """

    bottleneck: int
    kernel: tuple[int, int, int] = (3, 1, 1)

    def __post_init__(self) -> None:
        require(all(size % 2 == 1 for size in self.kernel), "kernel", self.kernel, "odd sizes")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """The text encoder with cross-attention, and what it reads (SPEC §5).

    Attributes:
        vocabulary: rows of the word embedding.
        vocabulary_sha256: of the file of words, which has fewer lines where an encoder has tokens of its own.
        positions: rows of the position embedding.
        prompt_tokens: L, the tokens that a prompt is cut or padded to; [CLS] and [SEP] are among them.
    """

    width: int
    layers: int
    heads: int
    vocabulary: int
    vocabulary_sha256: str
    positions: int
    prompt_tokens: int = 35
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width ({self.width})")
        require(
            2 < self.prompt_tokens <= self.positions,
            "prompt_tokens",
            self.prompt_tokens,
            f"over 2 and at most positions ({self.positions})",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """From the branches' numbers to opinions, fitted on the training split (SPEC §6).

    score = base + scale · (q_t − technical + q_a − aesthetic + s_a − alignment), and without a prompt
    base_visual + scale_visual · (q_t − technical + q_a − aesthetic).

    Attributes:
        base, scale: of scores with a prompt.
        base_visual, scale_visual: of scores without one.
        technical, aesthetic, alignment: the branches' means.
    """

    base: float = 50.0
    scale: float = 10.0
    base_visual: float = 50.0
    scale_visual: float = 10.0
    technical: float = 0.0
    aesthetic: float = 0.0
    alignment: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(math.isfinite(value), field.name, value, "a finite number")


@dataclass(frozen=True, kw_only=True, slots=True)
class AigcVqaConfig:
    """A whole network.

    Attributes:
        frames: T, how many are sampled.
        view_size: S, the side of both views in pixels.
        grid: G, the mini-patches on a side of the technical view.
        head_width: the hidden channels of the two regression heads.
        adapter: None leaves the frames' tokens as they are (Table 5).
        reward: the hidden widths of the alignment head, and what it ends in.
    """

    name: str
    frames: int
    view_size: int
    grid: int
    swin: SwinConfig
    convnext: ConvNextConfig
    head_width: int
    vision: VisionConfig
    adapter: AdapterConfig | None
    text: TextConfig
    reward: tuple[int, ...]
    calibration: Calibration = Calibration()
    score_range: tuple[float, float] = (0.0, 100.0)

    def __post_init__(self) -> None:
        require(self.frames >= 2 and self.frames % 2 == 0, "frames", self.frames, "an even number, at least 2")
        size = self.view_size
        require(size > 0 and size % _CELL == 0, "view_size", size, f"a multiple of {_CELL}")
        require(size % self.grid == 0, "view_size", size, f"a multiple of grid ({self.grid})")
        patch = self.vision.patch_size
        require(size % patch == 0, "view_size", size, f"a multiple of vision.patch_size ({patch})")
        require(self.score_range[0] < self.score_range[1], "score_range", self.score_range, "(low, high)")
        for grid in self.stage_grids:
            window = tuple(min(side, most) for side, most in zip(grid, self.swin.window, strict=True))
            require(
                all(side % most == 0 for side, most in zip(grid, window, strict=True)),
                "swin.window",
                self.swin.window,
                f"divisors of the stages' grids, of which one is {grid}: windows are not padded",
            )

    @property
    def temporal_tokens(self) -> int:
        """D = T/2, of the technical and the aesthetic branch."""
        return self.frames // PATCH_SIZE[0]

    @property
    def mini_patch(self) -> int:
        """f, the side of a mini-patch in pixels."""
        return self.view_size // self.grid

    @property
    def stage_grids(self) -> tuple[tuple[int, int, int], ...]:
        """Frames, rows and columns of each stage of both backbones."""
        sides = (self.view_size // PATCH_SIZE[1] // 2**stage for stage in range(STAGES))
        return tuple((self.temporal_tokens, side, side) for side in sides)

    @property
    def map_side(self) -> int:
        """The side of the score maps."""
        return self.stage_grids[-1][1]

    @property
    def frame_tokens(self) -> int:
        """P, the tokens of a frame: its patches, and the class token before them."""
        return (self.view_size // self.vision.patch_size) ** 2 + 1

    def describe(self) -> str:
        """A few words for a person: what the network takes, and what it does to it."""
        return (
            f"{self.frames} frames, as {self.grid}×{self.grid} pieces of {self.mini_patch}×{self.mini_patch} pixels "
            f"and shrunk to {self.view_size}×{self.view_size}; a prompt of up to {self.text.prompt_tokens - 2} tokens"
        )

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AigcVqaConfig":
        """The inverse of `as_dict`, also by way of JSON. Raises ValueError on an unknown or missing field."""
        try:
            adapter = values["adapter"]
            return cls(
                **{
                    **_tuples(values),
                    "swin": SwinConfig(**_tuples(values["swin"])),
                    "convnext": ConvNextConfig(**_tuples(values["convnext"])),
                    "vision": VisionConfig(**values["vision"]),
                    "adapter": None if adapter is None else AdapterConfig(**_tuples(adapter)),
                    "text": TextConfig(**values["text"]),
                    "calibration": Calibration(**values["calibration"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an AIGC-VQA network's description: {error}") from error


def _check_four(field: str, values: tuple[int, ...]) -> None:
    require(len(values) == STAGES and min(values) >= 1, field, values, f"{STAGES} numbers, at least 1 each")


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
