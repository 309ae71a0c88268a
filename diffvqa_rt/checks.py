"""Checks of arguments by value; an error names the argument, its value and what was expected."""

import operator

import numpy as np

from diffvqa_rt.errors import InputError

MAX_COUNT = 2**31
"""Limit of counts that nothing else limits."""


def flag(name: str, value: object) -> bool:
    """Returns an option of a request as True or False; NumPy's bools will do.

    Raises:
        InputError: the value is anything else. The text "false" would count as true.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def whole(
    name: str,
    value: object,
    least: int,
    most: int | None = None,
    or_else: str = "",
    error: type[ValueError] = ValueError,
) -> int:
    """Returns the value as a plain integer: any type's whole number will do, NumPy's too, but no float and no bool.

    Args:
        name: the argument.
        value: its value.
        least, most: the range; without `most` it has no upper end.
        or_else: what the error says could stand in the number's place.
        error: the class of the error; `InputError` where a request is checked.

    Raises:
        error: the value is no whole number, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        what = "" if number is not None else "a whole number, "
        expected = f"{what}at least {least}" if most is None else f"a whole number from {least} to {most}"
        raise error(f"{name} is {value!r}; expected {expected}{or_else}")
    return number


def require(condition: bool, field: str, value: object, expected: str) -> None:
    """Raises ValueError, which names the field, its value and what was expected, unless the condition holds."""
    if not condition:
        raise ValueError(f"{field} is {value!r}; expected {expected}")
