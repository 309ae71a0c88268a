"""Arguments of callers, checked by value and refused by name."""

import operator

import numpy as np

MAX_COUNT = 2**31
"""The most of whatever is counted and nothing else limits."""


def flag(name: str, value: object) -> bool:
    """True or False, NumPy's too. Raises ValueError for anything else: the text "false" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def whole(name: str, value: object, least: int, most: int | None = None, or_else: str = "") -> int:
    """The value as a plain integer: any type's whole number will do, NumPy's too; floats and bools are none.

    `or_else` is what the error says could stand in the number's place.

    Raises:
        ValueError: it is no whole number, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        what = "" if number is not None else "a whole number, "
        expected = f"{what}at least {least}" if most is None else f"a whole number from {least} to {most}"
        raise ValueError(f"{name} is {value!r}; expected {expected}{or_else}")
    return number


def require(condition: bool, field: str, value: object, expected: str) -> None:
    """Raises ValueError, which names the field, its value and what was expected, unless the condition holds."""
    if not condition:
        raise ValueError(f"{field} is {value!r}; expected {expected}")
