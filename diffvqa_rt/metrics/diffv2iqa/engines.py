"""The borders of DiffV²IQA's two engines.

The leading axis of every tensor is a batch of views, crops of pictures; the engines treat every view alone.
"""

from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.specs import EngineSpec, PixelScale, TensorSpec

PIXELS = PixelScale(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""The networks take pixels in [-1, 1]."""


def engine_specs(config: DiffV2IQAConfig) -> dict[str, EngineSpec]:
    """The two engines of a network, in the order in which a view passes them (SPEC §12)."""
    size, grid, branches = config.view_size, config.grid, len(config.branch_names)

    def views(name: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, "float32", ("videos", *shape))

    def picture(name: str) -> TensorSpec:
        return views(name, 3, size, size)

    specs = (
        EngineSpec(
            "restoration_step",
            inputs=(picture("y"), picture("x"), TensorSpec("step", "int64", (1,))),  # Triton server knows no scalars
            outputs=(picture("y_next"),),
            is_per_frame=False,
            is_cut_by_row=True,
            pixels={"x": PIXELS, "y": PIXELS},  # y of turn 0 is x, and is not read
        ),
        EngineSpec(
            "quality_branches",
            inputs=(picture("x"), picture("y_0"), picture("y_t1"), picture("y_t2")),
            outputs=(
                views("view_scores"),
                views("branch_scores", branches),
                views("patch_scores", branches, grid, grid),
                views("patch_weights", branches, grid, grid),
            ),
            is_per_frame=False,
            is_cut_by_row=True,
            pixels={"x": PIXELS},
        ),
    )
    return {spec.name: spec for spec in specs}
