"""The exceptions from half precision: each stage lists them by full path, with reasons."""

from fnmatch import fnmatchcase

import pytest
import torch
from diffvqa_export.precision import CONVERTED, write_precision
from diffvqa_export.registry import metric_export

from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.models.registry import models_of

NETWORKS = [(metric, preset) for metric in METRICS for preset in metric_named(metric).presets.values()]
STAGES = [(metric, preset, stage) for metric, preset in NETWORKS for stage in metric_export(metric).stages.values()]
IDS = [f"{metric}-{preset.name}-{stage.name}" for metric, preset, stage in STAGES]


def module_of(metric, preset, stage):
    models = models_of(metric)
    with torch.device("meta"):
        return models.stages(models.network(preset).to("meta"))[stage.name]


@pytest.mark.parametrize(("metric", "preset", "stage"), STAGES, ids=IDS)
def test_every_exception_is_of_a_module_and_has_a_reason(metric, preset, stage):
    parts = [path for path, part in module_of(metric, preset, stage).named_modules() if isinstance(part, CONVERTED)]
    for pattern, reason in stage.kept_in_float32.items():
        assert any(fnmatchcase(path, pattern) for path in parts), pattern
        assert reason


@pytest.mark.parametrize(("metric", "preset", "stage"), STAGES, ids=IDS)
def test_every_folded_pattern_is_of_a_parameter(metric, preset, stage):
    parameters = [path for path, _ in module_of(metric, preset, stage).named_parameters()]
    for pattern in stage.folds.replaced if stage.folds else ():
        assert any(fnmatchcase(path, pattern) for path in parameters), pattern


@pytest.mark.parametrize(("metric", "preset", "stage"), STAGES, ids=IDS)
def test_what_is_not_an_exception_is_in_half_precision(metric, preset, stage):
    module = module_of(metric, preset, stage)
    write_precision(stage, module, "bf16")
    for path, part in module.named_modules():
        if isinstance(part, CONVERTED):
            expected = torch.float32 if stage.keeps_float32(path) else torch.bfloat16
            assert {parameter.dtype for parameter in part.parameters()} == {expected}, path
    for table in stage.folds.tables(module) if stage.folds else ():
        assert table.dtype == torch.bfloat16


def in_float32(stage):
    """The parts of a stage of `tiny` that stay in float32."""
    module = module_of("diffvqa", TINY, stage)
    write_precision(stage, module, "fp16")
    parts = {path for path, part in module.named_modules() if isinstance(part, CONVERTED)}
    return {path for path in parts if module.get_submodule(path).weight.dtype == torch.float32}, parts


def test_diffvqas_exceptions():
    stages = metric_export("diffvqa").stages
    encoder, _ = in_float32(stages["vae_encoder"])
    assert encoder == {"vae.encoder.conv_in", "vae.encoder.conv_norm_out", "vae.encoder.conv_out", "vae.quant_conv"}
    step, _ = in_float32(stages["unet_controller"])
    assert step == {"unet.conv_in", "controller.conv_in", "unet.conv_norm_out", "unet.conv_out"}
    head, parts = in_float32(stages["head"])
    assert head == parts
