"""Requests whose tensors are missing or not finite: refused, and told from what the network gets wrong."""

import numpy as np
import pytest

from diffvqa_rt.errors import InputError
from diffvqa_rt.serving.tensor_checks import check_inputs, check_outputs

ONE = np.ones(1, np.float32)
MARKS = np.full(2, np.nan)  # float64: not of the network


def test_what_is_missing_is_named():
    check_inputs({"z0": ONE, "other": ONE}, ["z0"], are_finite=True)
    with pytest.raises(InputError, match="z0 is missing; got other"):
        check_inputs({"other": ONE}, ["z0"], are_finite=True)
    with pytest.raises(InputError, match="z0, frames is missing; got nothing"):
        check_inputs({}, ["z0", "frames"], are_finite=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_refused_where_they_must_be(value):
    array = np.array([0, value, 1], np.float32)
    check_inputs({"z0": array}, ["z0"], are_finite=False)
    check_inputs({"z0": ONE[:0], "marks": MARKS}, ["z0"], are_finite=True)
    with pytest.raises(InputError, match="z0 has values that are not finite"):
        check_inputs({"marks": MARKS, "z0": array}, ["z0"], are_finite=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_the_networks_fault_unless_an_input_explains_them(value):
    score = np.array([value], np.float32)
    check_outputs({"score": ONE, "marks": MARKS}, {"z0": ONE})
    with pytest.raises(ArithmeticError, match="the network's score is not finite"):
        check_outputs({"score": score}, {"z0": ONE * 65504})
    with pytest.raises(InputError, match="z0 has values beyond ±65,504, for which score is not finite"):
        check_outputs({"score": score}, {"frames": ONE, "z0": ONE * -1e30})
