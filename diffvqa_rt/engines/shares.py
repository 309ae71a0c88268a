"""How a CPU's threads divide an engine's frames among them."""

from itertools import pairwise


def equal_shares(count: int, shares: int) -> list[slice]:
    """`count` items in `shares` parts that differ by one item at most, in order; `shares` is at most `count`."""
    bounds = [count * share // shares for share in range(shares + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
