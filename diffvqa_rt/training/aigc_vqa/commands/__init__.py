"""AIGC-VQA's stages of training as a subcommand runs them: all of them learn from opinions."""

from diffvqa_rt.training.aigc_vqa.commands.train import TRAIN
from diffvqa_rt.training.registry import MetricTraining

TRAINING = MetricTraining(adapt=None, train=TRAIN)
