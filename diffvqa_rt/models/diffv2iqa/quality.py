"""The engine `quality_branches`: the branches of a network with all folded that can be, exactly (SPEC §12)."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA
from diffvqa_rt.models.diffv2iqa.swin import WindowAttention


class Constant(nn.Module):
    """Gives one tensor, whatever it was computed from."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> Tensor:
        return self.value


class QualityBranches(nn.Module):
    """The network from the pictures of a view to its scores, with constants in the place of what they replace.

    Folded are the ResNet's BatchNorms into its convolutions, the VCG's two 1×1 convolutions into one (D35), and in each
    Swin block the relative position bias and the seam's mask into one constant. The network stays as it is; what is not
    folded is shared with it.

    Args of `forward`: x, y_0, y_t1, y_t2 [V, 3, S, S]. Returns a `Prediction`'s tensors.
    """

    @torch.no_grad()
    def __init__(self, network: DiffV2IQA) -> None:
        super().__init__()
        shared = (network.restorer, *network.parameters(), *network.buffers())
        folded = copy.deepcopy(network, {id(part): part for part in shared})
        folded.register_module("restorer", None)
        self.network = folded.eval()
        if folded.resnet is not None:
            fold_batch_norms(folded.resnet)
        if folded.vcg is not None:
            folded.vcg.set_submodule("reduce1", folded_convolutions(*folded.vcg.reduce1))
            for module in folded.vcg.modules():
                if isinstance(module, WindowAttention):
                    module.set_submodule("bias", Constant(module.bias()))

    def forward(self, x: Tensor, y_0: Tensor, y_t1: Tensor, y_t2: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(x, y_0, y_t1, y_t2))


def fold_batch_norms(module: nn.Module) -> None:
    """Folds each BatchNorm into the convolution that stands before it, in place; the convolutions are new ones."""
    for parent in list(module.modules()):
        for (before, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.set_submodule(before, fuse_conv_bn_eval(conv, norm))
                parent.set_submodule(name, nn.Identity())


def folded_convolutions(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One 1×1 convolution that does what two in a row do. The products are summed in float64."""
    folded = nn.Conv2d(first.in_channels, second.out_channels, 1).to(first.weight)
    first_weight, second_weight = (conv.weight.flatten(1).double() for conv in (first, second))
    assert first.bias is not None and second.bias is not None and folded.bias is not None
    folded.weight.copy_((second_weight @ first_weight)[:, :, None, None])
    folded.bias.copy_(second_weight @ first.bias.double() + second.bias.double())
    return folded
