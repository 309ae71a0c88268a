"""The network cut at the engines' borders: one module per engine, tensors as `engine_specs` names them (SPEC §11)."""

import copy

from torch import Tensor, nn

from diffvqa_rt.models.aigc_vqa.adapter import Adapter
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, TechnicalBranch, align
from diffvqa_rt.models.aigc_vqa.reward import Reward
from diffvqa_rt.models.aigc_vqa.swin import FoldedWindowAttention, WindowAttention
from diffvqa_rt.models.aigc_vqa.text_encoder import TextEncoder
from diffvqa_rt.models.registry import MetricModels


class ViewStage(nn.Module):
    """A view [V, T, 3, S, S] → what one branch or encoder gives, float32."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, view: Tensor) -> tuple[Tensor]:
        return (self.branch(view).float(),)


class AlignmentStage(nn.Module):
    """frame_tokens [V, T, P, C], token_ids and token_mask [V, L] → alignment_score [V].

    A number beyond the vocabulary counts as its last: a server's stage may be asked by anyone, and a GPU's gather reads
    whatever memory it is told to.
    """

    def __init__(self, adapter: Adapter | None, text_encoder: TextEncoder, reward: Reward) -> None:
        super().__init__()
        self.adapter, self.text_encoder, self.reward = adapter, text_encoder, reward

    def forward(self, frame_tokens: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor]:
        token_ids = token_ids.clamp(0, self.text_encoder.embeddings.word_embeddings.num_embeddings - 1)
        token_mask = token_mask.clamp(0, 1)
        return (align(self.adapter, self.text_encoder, self.reward, frame_tokens, token_ids, token_mask),)


def folded(branch: TechnicalBranch) -> TechnicalBranch:
    """The branch with the bias of each window attention as a constant in the place of its tables.

    The branch that is given stays as it is; what is not folded is shared with it.
    """
    shared = (*branch.parameters(), *branch.buffers())
    branch = copy.deepcopy(branch, {id(tensor): tensor for tensor in shared})
    for path, module in list(branch.named_modules()):
        if isinstance(module, WindowAttention):
            branch.set_submodule(path, FoldedWindowAttention(module))
    return branch


def stage_modules(network: AigcVqa) -> dict[str, nn.Module]:
    """The network's engines by name, in evaluation mode."""
    stages = {
        "technical": ViewStage(folded(network.technical)),
        "aesthetic": ViewStage(network.aesthetic),
        "vision": ViewStage(network.vision),
        "alignment": AlignmentStage(network.adapter, network.text_encoder, network.reward),
    }
    return {name: stage.eval() for name, stage in stages.items()}


MODELS = MetricModels(network=AigcVqa, stages=stage_modules)
