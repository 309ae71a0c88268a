"""The network cut at the engines' borders: one module per engine, tensors as `engine_specs` names them."""

from torch import nn

from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA
from diffvqa_rt.models.diffv2iqa.quality import QualityBranches
from diffvqa_rt.models.diffv2iqa.restoration import RestorationStep
from diffvqa_rt.models.registry import MetricModels


def stage_modules(network: DiffV2IQA) -> dict[str, nn.Module]:
    """The network's engines by name, in evaluation mode."""
    stages = {
        "restoration_step": RestorationStep(network.restorer, network.config),
        "quality_branches": QualityBranches(network),
    }
    return {name: stage.eval() for name, stage in stages.items()}


MODELS = MetricModels(network=DiffV2IQA, stages=stage_modules)
