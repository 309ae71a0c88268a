"""Attention between channels (D19, D24) against plain loops in float64."""

import math

import pytest
import torch
from torch import Tensor

from diffvqa_rt.models.diffv2iqa.attention import TransposedAttention

CHANNELS, POSITIONS = 5, 9


def linear(weights: dict[str, Tensor], name: str, row: Tensor) -> list[float]:
    lines, offsets = weights[f"{name}.weight"].tolist(), weights[f"{name}.bias"].tolist()
    products = (sum(w * x for w, x in zip(line, row.tolist(), strict=True)) for line in lines)
    return [product + offset for product, offset in zip(products, offsets, strict=True)]


def by_loops(weights: dict[str, Tensor], x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """X̂ of one view, [C, P] each, channel by channel."""
    q, k, v = (
        [linear(weights, name, row) for row in maps] for name, maps in (("to_q", query), ("to_k", key), ("to_v", value))
    )
    out = torch.empty_like(x)
    for c in range(CHANNELS):
        logits = [sum(a * b for a, b in zip(q[c], k[d], strict=True)) / math.sqrt(POSITIONS) for d in range(CHANNELS)]
        exponentials = [math.exp(logit) for logit in logits]
        for p in range(POSITIONS):
            mixed = sum(exponentials[d] * v[d][p] for d in range(CHANNELS)) / sum(exponentials)
            out[c, p] = x[c, p] + mixed
    return out


@pytest.fixture
def attention() -> TransposedAttention:
    torch.manual_seed(1)
    attention = TransposedAttention(POSITIONS, dropout=0.1).double().eval()
    for linear in (attention.to_q, attention.to_k):  # for weights that are far from one mean
        torch.nn.init.normal_(linear.weight)
    return attention


@torch.inference_mode()
def test_maps_that_attend_to_themselves_are_as_by_loops(attention):
    z = torch.randn(2, CHANNELS, POSITIONS, dtype=torch.float64)
    for actual, view in zip(attention(z, z, z, z), z, strict=True):
        expected = by_loops(attention.state_dict(), view, view, view, view)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@torch.inference_mode()
def test_a_map_that_gets_three_differences_is_as_by_loops(attention):
    x, query, key, value = torch.randn(4, 2, CHANNELS, POSITIONS, dtype=torch.float64)
    for view, actual in enumerate(attention(x, query, key, value)):
        expected = by_loops(attention.state_dict(), x[view], query[view], key[view], value[view])
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@torch.inference_mode()
def test_channels_may_stand_in_any_order(attention):
    """D19: the plain product. MANIQA's reshape of its transpose would mix channels with positions."""
    z = torch.randn(1, CHANNELS, POSITIONS, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = z[:, order]
    torch.testing.assert_close(attention(turned, turned, turned, turned), attention(z, z, z, z)[:, order])


def test_dropout_is_of_what_is_added(attention):
    z = torch.randn(1, 200, POSITIONS, dtype=torch.float64)
    with torch.inference_mode():
        added = attention(z, z, z, z) - z
        dropped = attention.train()(z, z, z, z) - z
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], added[kept] / 0.9)
    assert (~kept).double().mean() == pytest.approx(0.1, abs=0.03)
