"""Whole numbers in the descriptions of runs and sets, of whatever type they come."""

import operator
from typing import SupportsIndex


def whole_value(name: str, value: SupportsIndex, least: int, or_else: str = "") -> int:
    """The number as an int, which JSON can hold: NumPy's whole numbers are taken too.

    `or_else` is what an error says could stand in the number's place.

    Raises:
        TypeError, ValueError: it is no whole number, or under `least`.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; expected a whole number")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected a whole number") from None
    if number < least:
        raise ValueError(f"{name} is {number}; expected at least {least}{or_else}")
    return number
