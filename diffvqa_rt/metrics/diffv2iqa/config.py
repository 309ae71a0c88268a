"""The shape of a DiffV²IQA network, as frozen data. Nothing here imports torch."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from diffvqa_rt.checks import require
from diffvqa_rt.sampler import SamplerConfig

View = Literal["crop", "resize"]
Norm = Literal["batch", "group"]
Branches = Literal["both", "vcg", "vda"]
Picture = Literal["x", "y_0", "y_t1", "y_t2"]

PICTURES: tuple[Picture, ...] = get_args(Picture)
"""The distorted picture, the restored one, and the two noisy ones that are kept on the way to it."""

ATTENTION_LEVEL = 3
"""The level of the restorer with attention, of side S/8 (D9)."""

PATCH_SIZE = 8
"""The ViT's (D17). The patch grid of both branches has this size of cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorerConfig:
    """The restoration U-Net ε_θ, SR3's with another norm (§III-B-2).

    Attributes:
        channels: the width of each level.
        blocks: residual blocks a level downwards; upwards there is one more.
        norm: `batch` is the paper's; `group` is SR3's own, and its checkpoints need it (D10).
        norm_groups: of `group`.
    """

    channels: tuple[int, ...]
    blocks: int
    norm: Norm = "batch"
    norm_groups: int = 32
    dropout: float = 0.2

    def __post_init__(self) -> None:
        require(len(self.channels) > ATTENTION_LEVEL, "channels", self.channels, f"over {ATTENTION_LEVEL} levels")
        require(self.blocks >= 1, "blocks", self.blocks, "at least 1")
        require(self.norm in get_args(Norm), "norm", self.norm, f"one of {get_args(Norm)}")
        require(
            all(width % self.norm_groups == 0 for width in self.channels),
            "channels",
            self.channels,
            f"multiples of norm_groups ({self.norm_groups})",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VitConfig:
    """The frozen ViT, of which the blocks run that are read (D16, D17).

    Attributes:
        depth: the blocks of the checkpoint.
        mean, std: the scale of the pixels that its weights were trained on; timm's by default (D25, D34).
    """

    width: int
    heads: int
    depth: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width ({self.width})")


@dataclass(frozen=True, kw_only=True, slots=True)
class VcgConfig:
    """The visual compensation guidance branch (§III-C).

    Attributes:
        blocks_x, blocks_y_0, blocks_y_t1, blocks_y_t2: the ViT's blocks that each picture is read from, counted from 0.
        embedding_width: of the noise embedding E (D18); its rows are zeros without `has_noise_embedding`.
        reduction: the widths after the two first 1×1 convolutions (D20); the last is the first Swin's.
        swin_channels: of the two Swins.
        swin_mlp: the hidden width of their MLPs.
        swin_scale: the factor of a Swin layer's result before it is added (D21).
    """

    blocks_x: tuple[int, ...]
    blocks_y_0: tuple[int, ...]
    blocks_y_t1: tuple[int, ...]
    blocks_y_t2: tuple[int, ...]
    embedding_width: int
    reduction: tuple[int, int]
    swin_channels: tuple[int, int]
    swin_mlp: int
    swin_heads: int = 4
    swin_window: int = 4
    swin_scale: float = 0.8
    has_noise_embedding: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require(
            self.reduction[1] == self.swin_channels[0], "reduction", self.reduction, f"to {self.swin_channels[0]} last"
        )

    @property
    def blocks(self) -> dict[Picture, tuple[int, ...]]:
        """The ViT's blocks that each picture is read from."""
        return dict(zip(PICTURES, (self.blocks_x, self.blocks_y_0, self.blocks_y_t1, self.blocks_y_t2), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class VdaConfig:
    """The visual difference analysis branch (§III-D).

    Attributes:
        resnet_blocks: bottlenecks of each of the ResNet's four stages.
        resnet_width: of its first stage, before the expansion by 4.
        channels: C_r, which its four maps are reduced to (D23).
        query, key, value: the picture whose difference from x is each of them (Table XII).
    """

    resnet_blocks: tuple[int, int, int, int]
    resnet_width: int
    channels: int
    query: Picture = "y_0"
    key: Picture = "y_t1"
    value: Picture = "y_t2"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("query", "key", "value"):
            require(getattr(self, name) in PICTURES[1:], name, getattr(self, name), f"one of {PICTURES[1:]}")

    @property
    def map_channels(self) -> tuple[int, ...]:
        """The channels of the ResNet's four maps, finest first."""
        return tuple(4 * self.resnet_width * 2**stage for stage in range(4))


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffV2IQAConfig:
    """A whole network. The paper's ablations are fields of it.

    Attributes:
        view_size: S, the side of a view in pixels.
        view: `crop` cuts views at native resolution, `resize` takes the whole picture (D2).
        frames: how many frames of a video are scored, unless a request says.
        sampler: of the restoration; `steps` is T, every step of the schedule.
        kept: (t₁, t₂), the steps left when the noisy pictures are kept (D7).
        branches: which of them are there (Table VII).
        pictures: those that the branches see; x stands in for another (Table XI).
    """

    name: str
    view_size: int
    sampler: SamplerConfig
    kept: tuple[int, int]
    restorer: RestorerConfig
    vit: VitConfig
    vcg: VcgConfig
    vda: VdaConfig
    view: View = "crop"
    frames: int = 8
    branches: Branches = "both"
    pictures: tuple[Picture, ...] = PICTURES
    score_range: tuple[float, float] = (0.0, 100.0)

    def __post_init__(self) -> None:
        size = self.view_size
        require(size >= 32 and size % 32 == 0, "view_size", size, "a multiple of 32")
        require(self.view in get_args(View), "view", self.view, f"one of {get_args(View)}")
        require(self.frames >= 1, "frames", self.frames, "at least 1")
        require(self.branches in get_args(Branches), "branches", self.branches, f"one of {get_args(Branches)}")
        require(
            "x" in self.pictures and set(self.pictures) <= set(PICTURES),
            "pictures",
            self.pictures,
            f"x and some of {PICTURES[1:]}",
        )
        require(self.score_range[0] < self.score_range[1], "score_range", self.score_range, "(low, high)")
        steps = self.sampler.steps
        require(
            self.sampler.train_steps == steps,
            "sampler.train_steps",
            self.sampler.train_steps,
            f"steps ({steps}), every one of which runs",
        )
        first, second = self.kept
        require(0 < first < second < steps, "kept", self.kept, f"0 < t1 < t2 < steps ({steps})")
        halvings = 2 ** (len(self.restorer.channels) - 1)
        require(size % halvings == 0, "view_size", size, f"a multiple of {halvings}, for the restorer's levels")
        require(self.grid % self.vcg.swin_window == 0, "view_size", size, f"a multiple of {8 * self.vcg.swin_window}")
        for picture, blocks in self.vcg.blocks.items():
            require(
                bool(blocks) and all(0 <= block < self.vit.depth for block in blocks),
                f"vcg.blocks_{picture}",
                blocks,
                f"blocks from 0 to {self.vit.depth - 1}",
            )

    @property
    def grid(self) -> int:
        """g, the side of the patch grid."""
        return self.view_size // PATCH_SIZE

    @property
    def positions(self) -> int:
        """P = g²."""
        return self.grid**2

    @property
    def vit_blocks(self) -> int:
        """The number of the ViT's blocks that run."""
        return 1 + max(block for blocks in self.vcg.blocks.values() for block in blocks)

    @property
    def fused_channels(self) -> int:
        """The channels of Z (§III-C)."""
        taps = sum(len(blocks) for blocks in self.vcg.blocks.values())
        return taps * self.vit.width + len(PICTURES) * self.vcg.embedding_width

    @property
    def branch_names(self) -> tuple[str, ...]:
        """The branches that are there, in the order of `branch_scores`."""
        return ("vcg", "vda") if self.branches == "both" else (self.branches,)

    def describe(self) -> str:
        """A few words for a person: what the network takes, and what it does to it."""
        how = "cut" if self.view == "crop" else "shrunk whole"
        return (
            f"views of {self.view_size}×{self.view_size} pixels, {how}; {self.sampler.steps} restoration steps; "
            f"{self.frames} frames of a video"
        )

    def with_steps(self, steps: int) -> "DiffV2IQAConfig":
        """The same network with another T, of which t₁ and t₂ stay the same shares (D7).

        Raises ValueError where t₁ and t₂ would not be two steps of T.
        """
        first, second = (round(left * steps / self.sampler.steps) for left in self.kept)
        require(
            0 < first < second < steps,
            "steps",
            steps,
            f"enough to keep two pictures on the way, as with {self.kept[0]} and {self.kept[1]} of "
            f"{self.sampler.steps} steps left",
        )
        sampler = dataclasses.replace(self.sampler, train_steps=steps, steps=steps)
        return dataclasses.replace(self, sampler=sampler, kept=(first, second))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DiffV2IQAConfig":
        """The inverse of `as_dict`, also by way of JSON. Raises ValueError on an unknown or missing field."""
        try:
            return cls(
                **{
                    **_tuples(values),
                    "sampler": SamplerConfig(**values["sampler"]),
                    "restorer": RestorerConfig(**_tuples(values["restorer"])),
                    "vit": VitConfig(**_tuples(values["vit"])),
                    "vcg": VcgConfig(**_tuples(values["vcg"])),
                    "vda": VdaConfig(**_tuples(values["vda"])),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a DiffV²IQA network's description: {error}") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
