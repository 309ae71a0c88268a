"""The borders of DiffVQA's three engines.

The leading axis of every tensor is the video batch V (`videos`). Axis 1 of the two extractor engines counts frames of
both views, interleaved frame by frame; those engines treat every frame alone, so the axis is dynamic and a runtime may
cut it.
"""

from diffvqa_rt.metrics.diffvqa.config import VIEWS, DiffVQAConfig
from diffvqa_rt.specs import Dimension, EngineSpec, PixelScale, TensorSpec

PIXELS = PixelScale(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""The networks take pixels in [-1, 1]."""

FEATURES = ("features_0", "features_1", "features_2", "features_3")


def engine_specs(config: DiffVQAConfig) -> dict[str, EngineSpec]:
    """The three engines of a network, in the order in which a video passes them."""
    both_views = len(VIEWS) * config.frames
    image = (3, config.view_size, config.view_size)

    def frames(name: str, shape: tuple[int, ...], count: Dimension) -> TensorSpec:
        return TensorSpec(name, "float32", ("videos", count, *shape))

    def features(count: Dimension) -> tuple[TensorSpec, ...]:
        return tuple(frames(name, shape, count) for name, shape in zip(FEATURES, config.feature_shapes, strict=True))

    latent, any_count = config.latent_shape, "frames"
    specs = (
        EngineSpec(
            "vae_encoder",
            inputs=(frames("frames", image, any_count),),
            outputs=(frames("z0", latent, any_count),),
            is_per_frame=True,
            pixels={"frames": PIXELS},
        ),
        EngineSpec(
            "unet_controller",
            inputs=(
                frames("z", latent, any_count),
                frames("z0", latent, any_count),
                TensorSpec("step", "int64", (1,)),  # Triton server knows no scalars
            ),
            outputs=(frames("z_next", latent, any_count), *features(any_count)),
            is_per_frame=True,
        ),
        EngineSpec(
            "head",
            inputs=(
                frames("z0_hat", latent, both_views),
                *features(both_views),
                frames("frames", image, both_views),
            ),
            outputs=(
                TensorSpec("score", "float32", ("videos",)),
                TensorSpec("frame_scores", "float32", ("videos", config.frames)),
                TensorSpec("frame_weights", "float32", ("videos", config.frames)),
            ),
            is_per_frame=False,
            pixels={"frames": PIXELS},
        ),
    )
    return {spec.name: spec for spec in specs}
