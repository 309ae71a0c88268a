"""The shape of a DiffVQA network, as frozen data. Nothing here imports torch."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from diffvqa_rt.checks import require, whole
from diffvqa_rt.sampler import SamplerConfig
from diffvqa_rt.video.crops import MAX_CROPS

CropPlacement = Literal["random", "texture"]
TemporalBlock = Literal["both", "semantic", "distortion", "none", "conv3d"]

VIEWS = ("semantic", "distortion")
"""The order in which a frame's two views stand on every engine's frame axis (SPEC §1)."""


def _require_norm_groups(channels: tuple[int, ...], groups: int) -> None:
    require(
        all(width % groups == 0 for width in channels),
        "channels",
        channels,
        f"multiples of norm_groups ({groups})",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeConfig:
    """The encoder half of diffusers' `AutoencoderKL`."""

    channels: tuple[int, int, int, int]
    layers_per_block: int
    norm_groups: int
    latent_channels: int = 4
    scaling_factor: float = 0.18215

    def __post_init__(self) -> None:
        _require_norm_groups(self.channels, self.norm_groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetConfig:
    """Diffusers' `UNet2DConditionModel` as in Stable Diffusion 2.1-base: three levels with attention, one without."""

    channels: tuple[int, int, int, int]
    layers_per_block: int
    attention_heads: tuple[int, int, int, int]
    text_width: int
    text_tokens: int
    norm_groups: int
    latent_channels: int = 4

    def __post_init__(self) -> None:
        _require_norm_groups(self.channels, self.norm_groups)
        require(
            all(width % heads == 0 for width, heads in zip(self.channels, self.attention_heads, strict=True)),
            "attention_heads",
            self.attention_heads,
            f"divisors of channels {self.channels}",
        )

    @property
    def time_width(self) -> int:
        return 4 * self.channels[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class TcabConfig:
    """The Temporal Coherence Augmentation Block: a VideoMamba over the view's frames (SPEC §3)."""

    views: TemporalBlock
    width: int
    depth: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    patch_size: int = 16

    def __post_init__(self) -> None:
        require(self.views in get_args(TemporalBlock), "views", self.views, f"one of {get_args(TemporalBlock)}")

    @property
    def inner_width(self) -> int:
        return self.expand * self.width

    @property
    def dt_rank(self) -> int:
        return -(-self.width // 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """DFF, TDM, FFF and the two score MLPs (SPEC §3)."""

    feature_channels: int
    fused_channels: int
    mlp_width: int
    tcab: TcabConfig
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffVQAConfig:
    """A whole network. `view_size` is S, `frames` is N of the specification; scores lie on `score_range`.

    `crops` is the number of distortion views of a request that names none. `crop_placement` says where they lie: at
    `random`, by the request's seed, or where the middle frame's `texture` is, whatever the seed (`texture_places`).
    """

    name: str
    frames: int
    view_size: int
    vae: VaeConfig
    unet: UNetConfig
    sampler: SamplerConfig
    head: HeadConfig
    score_range: tuple[float, float] = (0.0, 100.0)
    crops: int = 1
    crop_placement: CropPlacement = "random"

    def __post_init__(self) -> None:
        whole("crops", self.crops, 1, MAX_CROPS)
        placements = get_args(CropPlacement)
        require(self.crop_placement in placements, "crop_placement", self.crop_placement, f"one of {placements}")
        require(self.frames >= 1, "frames", self.frames, "at least 1")
        # 8 from the VAE, 8 from the UNet's three halvings.
        require(self.view_size >= 64 and self.view_size % 64 == 0, "view_size", self.view_size, "a multiple of 64")
        require(self.score_range[0] < self.score_range[1], "score_range", self.score_range, "(low, high)")
        require(
            self.vae.latent_channels == self.unet.latent_channels,
            "unet.latent_channels",
            self.unet.latent_channels,
            f"vae.latent_channels ({self.vae.latent_channels})",
        )

    @property
    def latent_size(self) -> int:
        """h = w of the latent, in cells of 8 pixels."""
        return self.view_size // 8

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return (self.unet.latent_channels, self.latent_size, self.latent_size)

    @property
    def feature_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(C, h, w) of the four decoder blocks' outputs, coarse to fine (F_MS, SPEC §2)."""
        widths = self.unet.channels
        sides = (4, 2, 1, 1)
        return tuple(
            (width, self.latent_size // side, self.latent_size // side)
            for width, side in zip(reversed(widths), sides, strict=True)
        )

    def describe(self) -> str:
        """A few words for a person: what the network takes, and what it does to it."""
        steps, noise = self.sampler.steps, "" if self.sampler.variance == "beta" else ", posterior variance"
        return (
            f"{self.frames} frames, views of {self.view_size}×{self.view_size} pixels, {steps} denoising "
            f"step{'' if steps == 1 else 's'} ({self.sampler.schedule}{noise}){self._crops_in_words()}"
        )

    def _crops_in_words(self) -> str:
        if (self.crops, self.crop_placement) == (1, "random"):
            return ""
        where = {"random": "at random places", "texture": "where texture is"}[self.crop_placement]
        return f", {self.crops} crop{'s' if self.crops > 1 else ''} {where}"

    def with_steps(self, steps: int) -> "DiffVQAConfig":
        """The same network with another K (SPEC §2). Raises ValueError where the schedule has not so many steps."""
        return dataclasses.replace(self, sampler=dataclasses.replace(self.sampler, steps=steps))

    def as_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        # Engines, checkpoints and caches are known by this text, and those of before there was a choice lack these.
        if self.sampler.variance == "beta":
            del values["sampler"]["variance"]
        if self.crops == 1:
            del values["crops"]
        if self.crop_placement == "random":
            del values["crop_placement"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DiffVQAConfig":
        """The inverse of `as_dict`, also by way of JSON. Raises ValueError on an unknown or missing field."""
        try:
            head = dict(values["head"])
            return cls(
                **{
                    **values,
                    "vae": VaeConfig(**_tuples(values["vae"])),
                    "unet": UNetConfig(**_tuples(values["unet"])),
                    "sampler": SamplerConfig(**values["sampler"]),
                    "head": HeadConfig(**{**head, "tcab": TcabConfig(**head["tcab"])}),
                    "score_range": tuple(values["score_range"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a DiffVQA network's description: {error}") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
