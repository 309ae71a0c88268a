"""The borders of AIGC-VQA's four engines (SPEC §11)."""

from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.specs import EngineSpec, PixelScale, TensorSpec

PIXELS = PixelScale(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Pixels cross the borders in [−1, 1]; each engine makes its branch's own normalisation of them."""


def engine_specs(config: AigcVqaConfig) -> dict[str, EngineSpec]:
    """The engines of a network by name; the first three read nothing of each other."""
    size, side = config.view_size, config.map_side
    maps = ("videos", config.temporal_tokens, side, side)
    tokens = (config.frame_tokens, config.vision.width)
    prompt = ("videos", config.text.prompt_tokens)

    def views(name: str, frames: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", ("videos", frames, 3, size, size))

    specs = (
        EngineSpec(
            "technical",
            inputs=(views("fragments", config.frames),),
            outputs=(TensorSpec("technical_map", "float32", maps),),
            is_per_frame=False,
            is_cut_by_row=True,
            pixels={"fragments": PIXELS},
        ),
        EngineSpec(
            "aesthetic",
            inputs=(views("resized", config.frames),),
            outputs=(TensorSpec("aesthetic_map", "float32", maps),),
            is_per_frame=False,
            is_cut_by_row=True,
            pixels={"resized": PIXELS},
        ),
        EngineSpec(
            "vision",
            inputs=(views("resized", "frames"),),
            outputs=(TensorSpec("frame_tokens", "float32", ("videos", "frames", *tokens)),),
            is_per_frame=True,
            pixels={"resized": PIXELS},
        ),
        EngineSpec(
            "alignment",
            inputs=(
                TensorSpec("frame_tokens", "float32", ("videos", config.frames, *tokens)),
                TensorSpec("token_ids", "int64", prompt),
                TensorSpec("token_mask", "int64", prompt),
            ),
            outputs=(TensorSpec("alignment_score", "float32", ("videos",)),),
            is_per_frame=False,
            is_cut_by_row=True,
        ),
    )
    return {spec.name: spec for spec in specs}
