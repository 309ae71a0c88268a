"""How a time grows with a size, as one number."""

import math
from collections.abc import Sequence


def fitted_exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """p of seconds ∝ values^p: the slope of the least-squares line through the logarithms.

    Raises:
        ValueError: the two differ in length, one of them has a number that is not positive, or all values are the same.
    """
    if len(values) != len(seconds):
        raise ValueError(f"{len(values)} values and {len(seconds)} seconds; expected one of each a row")
    if any(number <= 0 for number in (*values, *seconds)):
        raise ValueError(f"values are {list(values)}, seconds {list(seconds)}; expected positive numbers")
    if len(set(values)) < 2:
        raise ValueError(f"values are {list(values)}; expected two different ones at least")
    x, y = [math.log(value) for value in values], [math.log(second) for second in seconds]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - x_mean) ** 2 for a in x)
