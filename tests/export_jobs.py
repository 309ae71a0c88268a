"""Export jobs of DiffVQA's stages, as tests write them."""

from pathlib import Path

from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.export_stage import ExportJob
from torch import nn

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.presets import TINY


def job_of(
    name: str, module: nn.Module, path: Path, *, config: DiffVQAConfig = TINY, provenance: str = ""
) -> ExportJob:
    """The job of the stage `name`, whose module is `module`."""
    spec = engine_specs(config)[name]
    return ExportJob(stage=STAGES[name], module=module, config=config, spec=spec, path=path, provenance=provenance)
