"""Half precision, written into the network before it is exported: what runs in it, and what must not."""

from typing import get_args

import torch
from torch import nn

from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep
from diffvqa_rt.specs import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

KEPT_IN_FLOAT32 = {
    "sampler": "tables, noise and latents: the cosine schedule's first step multiplies what it is given by 3,493",
    "conv_in": "reads the float32 latents or frames; one in a thousand of the arithmetic",
    "conv_norm_out": "prepares what conv_out writes",
    "conv_out": "writes the latents, or the ε that the sampler multiplies; one in a thousand of the arithmetic",
    "quant_conv": "writes the latents; 64 products a position",
    "GroupNorm": "sums up to 46,080 squares, which pass float16's 65,504 where values pass 1.2",
    "LayerNormalization": "sums squares too; ONNX defines its statistics as float32 (stash_type 1)",
    "Softmax": "sums exponentials of the text's scores; the image's are inside attention, where the runtime decides "
    "(TensorRT refuses softmax_precision) and the build measures. Both scale before they round: Stable Diffusion's "
    "unscaled products pass 65,504, these are 8 times smaller",
    "head": "the whole engine: 1 in 500 of the arithmetic, and its scan's decays underflow in half precision",
}
"""Where half precision overflows or costs accuracy for no time, and why. By module name, operator or engine."""


def write_precision(name: str, stage: nn.Module, precision: Precision) -> None:
    """Turns a stage's module into `precision`, in place, tensor by tensor: no second copy of the weights.

    The borders stay float32. The statistics of GroupNorm are the exporter's matter (`onnx_export`), since torch always
    takes them in float32; softmax and the latents' casts are written in the models.
    """
    dtype = DTYPES[precision]
    if dtype == torch.float32 or name in KEPT_IN_FLOAT32:
        return
    for path, module in stage.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm | nn.LayerNorm) and not is_kept(name, path):
            module.to(dtype)
    if isinstance(stage, DenoisingStep):
        stage.convert_tables(dtype)


def is_kept(stage: str, module_path: str) -> bool:
    """Whether a module of a stage stays in float32."""
    return stage in KEPT_IN_FLOAT32 or module_path.split(".")[-1] in KEPT_IN_FLOAT32
