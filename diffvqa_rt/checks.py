"""Arguments of callers, checked by value and refused by name."""

import operator

MAX_COUNT = 2**31
"""The most of whatever is counted and nothing else limits."""


def whole(name: str, value: object, least: int, most: int) -> int:
    """The value as a plain integer: any type's whole number will do, NumPy's too; floats and bools are none.

    Raises:
        ValueError: it is no whole number, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise ValueError(f"{name} is {value!r}; expected a whole number from {least} to {most}")
    return number
