"""A request's tensors must be there and finite: else it is refused, and is no fault of the server.

Triton server 2.51 counts a request's inputs and does not see that one stands there twice where another is missing.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import InputError

_LARGEST = float(np.finfo(np.float32).max)
HALF_PRECISION_MAX = 65504.0
"""Tensors between stages are far below; far above, sums inside a network leave single precision too."""


def check_inputs(inputs: Mapping[str, NDArray], required: Iterable[str], *, are_finite: bool) -> None:
    """Raises InputError where an input is missing, or, if they are to be finite, float32 and not so."""
    if missing := [name for name in required if name not in inputs]:
        raise InputError(f"{', '.join(missing)} is missing; got {', '.join(inputs) or 'nothing'}")
    for name, array in inputs.items():
        if are_finite and not _is_within(array, _LARGEST):
            raise InputError(f"{name} has values that are not finite")


def check_outputs(outputs: Mapping[str, NDArray], inputs: Mapping[str, NDArray]) -> None:
    """Checks that a model's float32 outputs are finite.

    Raises:
        InputError: they are not, and an input explains it, with values that no stage makes.
        ArithmeticError: they are not, and the network or its engines are to blame.
    """
    for name, array in outputs.items():
        if not _is_within(array, _LARGEST):
            for given, values in inputs.items():
                if not _is_within(values, HALF_PRECISION_MAX):
                    raise InputError(
                        f"{given} has values beyond ±{HALF_PRECISION_MAX:,.0f}, for which {name} is not finite"
                    )
            raise ArithmeticError(f"the network's {name} is not finite; check the engines with diffvqa info")


def _is_within(array: NDArray, bound: float) -> bool:
    """True where no value is beyond ±bound or NaN; looks at float32 alone, which is all that crosses networks."""
    if array.dtype != np.float32 or not array.size:
        return True
    return bool(-bound <= array.min() and array.max() <= bound)  # a NaN is both, and in neither range
