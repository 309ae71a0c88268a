"""Half precision, written into the network before it is exported.

A stage's declaration lists the modules that stay in float32 (`ExportStage.kept_in_float32`). All others run in half
precision. Three operators sum in float32 inside of them:

* GroupNorm sums up to 46,080 squares, which pass float16's 65,504 where values pass 1.2. Torch always takes its
  statistics in float32; the ONNX exporter writes the casts (`onnx_from_module`).
* LayerNormalization sums squares too; ONNX defines its statistics as float32 (stash_type 1).
* Softmax sums exponentials. The models write the cast of the text's scores; the image's are inside attention, where the
  runtime decides (TensorRT refuses softmax_precision) and the build measures. Both scale before they round: Stable
  Diffusion's unscaled products pass 65,504, these are 8 times smaller.
"""

from typing import get_args

import torch
from torch import nn

from diffvqa_export.export_stage import ExportStage
from diffvqa_rt.specs import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

CONVERTED = (nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
"""The kinds of modules that half precision is for."""


def write_precision(stage: ExportStage, module: nn.Module, precision: Precision) -> None:
    """Turns a stage's module into `precision`, in place, tensor by tensor: no second copy of the weights.

    The borders stay float32.
    """
    dtype = DTYPES[precision]
    if dtype == torch.float32:
        return
    for path, part in module.named_modules():
        if isinstance(part, CONVERTED) and not stage.keeps_float32(path):
            part.to(dtype)
    if stage.folds is not None:
        stage.folds.convert_tables(module, dtype)
