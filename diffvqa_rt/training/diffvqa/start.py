"""The networks that training starts from."""

from pathlib import Path

import torch
from torch import nn

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.presets import SD21
from diffvqa_rt.models.diffvqa.checkpoints import load_stable_diffusion, load_weights
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network
from diffvqa_rt.models.weights import network_from_state

_RANDOM_HEAD_SEED = 0


def network_to_start_from(path: Path, steps: int | None = None) -> tuple[DiffVQA, bool]:
    """The network of a safetensors file of ours, and whether it was trained; or `sd21` from a Stable Diffusion folder.

    That one's head is random. With `steps` the network has that K, whatever it was trained at.

    Raises:
        ValueError: the file or folder cannot be read, or does not hold such a network; or it can't have so many steps.
    """
    if path.is_dir():
        network, is_trained = random_network(SD21, _RANDOM_HEAD_SEED), False
        load_stable_diffusion(network.extractor, path)
    else:
        network, is_trained = load_weights(path)
    if steps is not None:
        network = network_from_state(DiffVQA, network.config.with_steps(steps), network.state_dict(), path)
    return network, is_trained


def with_new_head(network: DiffVQA, config: DiffVQAConfig, seed: int) -> DiffVQA:
    """The network's extractor, with a head of `config` that has seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = DiffVQA(config)
    fresh.extractor.load_state_dict(network.extractor.state_dict())
    return fresh.eval()


@torch.no_grad()
def start_alike_everywhere(network: DiffVQA) -> None:
    """Lets both views' first linear layers begin with the mean of F_FFF over its places, as if it were pooled.

    A weight for each place is what the paper has, and a few hundred contents are too few to learn so many from noise:
    what then differs between places is what training found out.
    """
    channels, cells = network.config.head.fused_channels, (network.config.latent_size // 4) ** 2
    for view in (network.head.semantic, network.head.distortion):
        first = next(layer for layer in view.mlp if isinstance(layer, nn.Linear))
        weight = first.weight[:, : channels * cells].unflatten(1, (channels, cells))
        weight.copy_(weight.mean(dim=2, keepdim=True).expand_as(weight))
