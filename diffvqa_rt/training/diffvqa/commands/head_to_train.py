"""The network that `diffvqa train` starts from: the extractor of some weights, and a head."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from diffvqa_rt.arguments import UsageError, checked_arguments

if TYPE_CHECKING:
    from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
    from diffvqa_rt.models.diffvqa.network import DiffVQA


def network_to_train(arguments: argparse.Namespace, score_range: tuple[float, float]) -> "tuple[DiffVQA, bool]":
    """The network of the weights, for this range of scores, and True where its head is a new one.

    Raises:
        UsageError: the weights cannot be read, their head has learned and is not the one that is asked for, or the
            schedule has not so many steps.
    """
    from diffvqa_rt.models.diffvqa.checkpoints import load_videomamba
    from diffvqa_rt.models.diffvqa.network import DiffVQA
    from diffvqa_rt.models.diffvqa.tcab import TemporalCoherenceBlock
    from diffvqa_rt.models.weights import network_from_state
    from diffvqa_rt.training.diffvqa.start import network_to_start_from, with_new_head

    with checked_arguments():
        network, is_trained = network_to_start_from(arguments.weights)
        steps = arguments.denoising_steps or network.config.sampler.steps
        config = network.config.with_steps(steps)
    head = network.config.head
    tcab = dataclasses.replace(head.tcab, views=arguments.tcab or head.tcab.views)
    config = dataclasses.replace(config, score_range=score_range, head=dataclasses.replace(head, tcab=tcab))
    if is_trained and not arguments.new_head:
        if tcab != head.tcab:
            raise UsageError(
                f"the trained head of {arguments.weights} has {_weights_of_head(network.config)} (--tcab "
                f"{head.tcab.views}), and one of --tcab {tcab.views} has {_weights_of_head(config)}; give --new-head "
                "to begin with a random one, or leave --tcab out to go on from the trained one"
            )
        if steps != network.config.sampler.steps:
            raise UsageError(
                f"the trained head of {arguments.weights} has learned from the features after "
                f"{network.config.sampler.steps} denoising steps, not {steps}; give --new-head to begin with a random "
                "one, or leave --denoising-steps out to go on from the trained one"
            )
        if arguments.videomamba:
            raise UsageError(
                f"--videomamba would take the place of what the head of {arguments.weights} has learned; give "
                "--new-head to begin with a random one, or leave --videomamba out to go on from the trained one"
            )
        # What a head tells are shares of the range, so that another range moves no weight.
        return network_from_state(DiffVQA, config, network.state_dict(), arguments.weights), False
    network = with_new_head(network, config, arguments.seed)
    if arguments.videomamba:
        views = (network.head.semantic, network.head.distortion)
        blocks = [view.tcab for view in views if isinstance(view.tcab, TemporalCoherenceBlock)]
        if not blocks:
            raise UsageError(f"--videomamba is for Mamba blocks; with --tcab {tcab.views} there are none")
        with checked_arguments():
            for block in blocks:
                load_videomamba(block, arguments.videomamba)
    return network, True


def _weights_of_head(config: "DiffVQAConfig") -> str:
    """The size of a head, in words."""
    import torch

    from diffvqa_rt.models.diffvqa.network import Head

    with torch.device("meta"):
        head = Head(config)
    return f"{sum(parameter.numel() for parameter in head.parameters()):,} weights"
