"""That each stage of AIGC-VQA can learn at all, by the commands that users run: six minutes of CPU time."""

import dataclasses
import re

import pytest
import torch

from diffvqa_rt.cli import main
from diffvqa_rt.metrics.aigc_vqa.config import AdapterConfig, ConvNextConfig, SwinConfig, VisionConfig
from diffvqa_rt.metrics.aigc_vqa.presets import TINY
from diffvqa_rt.models.aigc_vqa.checkpoints import load_weights
from diffvqa_rt.models.aigc_vqa.network import AigcVqa
from diffvqa_rt.models.weights import save_weights
from diffvqa_rt.synthetic.prompted.clips import LABELS, PromptedClipsConfig, make_prompted_clips

CLIPS = 32
# A small part of the arithmetic of `tiny`, whose first stage alone would take most of an hour.
SMALL = dataclasses.replace(
    TINY,
    name="small",
    frames=4,
    view_size=128,
    grid=4,
    swin=SwinConfig(width=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=(2, 4, 4)),
    convnext=ConvNextConfig(widths=(16, 32, 64, 128), depths=(2, 2, 2, 2)),
    vision=VisionConfig(width=64, depth=3, heads=2),
    adapter=AdapterConfig(bottleneck=24),
    text=dataclasses.replace(TINY.text, width=64, layers=3, heads=2),
)


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_each_stage_learns_clips_and_prompts_by_heart(tmp_path, capsys):
    """A main score over 0.95 of each stage's sum, on the clips that were learned from.

    No picture tells its label, which is of the prompt: the visual branches know the clips one by one.
    """
    make_prompted_clips(tmp_path, PromptedClipsConfig(count=CLIPS))
    weights = tmp_path / "start.safetensors"
    torch.manual_seed(0)
    save_weights(AigcVqa(SMALL), weights, is_trained=False)
    learning = ["--learning-rate", "1e-3", "--weight-decay", "0", "--workers", "1", "--split", "all"]
    for stage, epochs in ((1, 120), (2, 60), (3, 20)):
        out = tmp_path / f"stage-{stage}"
        arguments = [f"csv={tmp_path / LABELS}", "--stage", str(stage), "--weights", str(weights), "--out", str(out)]
        assert main(["train", "--metric", "aigc_vqa", *arguments, *learning, "--epochs", str(epochs)]) == 0
        said = capsys.readouterr().err
        name, main_score = re.findall(rf"learned from, {CLIPS} videos, (\w+): .* main (\S+)", said)[-1]
        assert name == ("alignment" if stage == 2 else "sum") and float(main_score) > 0.95, said
        weights = out / "weights.safetensors"
    assert load_weights(weights)[1] is True
