"""DiffV²IQA's stages of training as subcommands run them."""

from diffvqa_rt.training.diffv2iqa.commands.adapt import ADAPT
from diffvqa_rt.training.diffv2iqa.commands.train import TRAIN
from diffvqa_rt.training.registry import MetricTraining

TRAINING = MetricTraining(adapt=ADAPT, train=TRAIN)
