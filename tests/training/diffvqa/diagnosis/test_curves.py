"""Curves from event files as training writes them, resumed runs among them."""

import math

import numpy as np
import pytest
from training_runs import write_events

from diffvqa_rt.errors import DiagnosisError
from diffvqa_rt.training.diffvqa.diagnosis.curves import draw_curves, read_curves


def test_every_scalar_is_read_to_the_last_step(tmp_path):
    write_events(tmp_path, [("loss", 1 / step, step) for step in range(1, 20_001)])
    write_events(tmp_path, [("validation/srcc", 0.5, 100)])
    curves = read_curves(tmp_path)
    assert set(curves) == {"loss", "validation/srcc"}
    steps, values = curves["loss"]
    np.testing.assert_array_equal(steps, np.arange(1, 20_001))
    np.testing.assert_allclose(values, 1 / steps, rtol=1e-6)


def test_steps_that_a_resumed_run_did_again_count_once(tmp_path, capfd):
    write_events(tmp_path, [("loss", 1.0, step) for step in range(1, 31)])
    write_events(tmp_path, [("loss", 2.0, step) for step in range(11, 21)], purge_step=11)
    steps, values = read_curves(tmp_path)["loss"]
    assert steps.tolist() == list(range(1, 21)) and values.tolist() == [1.0] * 10 + [2.0] * 10
    assert capfd.readouterr().err == ""


def test_values_that_are_no_number_are_left_out(tmp_path):
    write_events(tmp_path, [("loss", 1.0, 1), ("loss", math.nan, 2), ("loss", 3.0, 3), ("srcc", math.nan, 3)])
    curves = read_curves(tmp_path)
    assert set(curves) == {"loss"} and curves["loss"][0].tolist() == [1, 3]


def test_a_folder_without_events_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DiagnosisError, match="tensorboard has no event files; expected the folder of a training run"):
        read_curves(tmp_path)
    write_events(tmp_path, [])
    with pytest.raises(DiagnosisError, match="hold no scalar"):
        read_curves(tmp_path)


@pytest.mark.parametrize("count", [1, 59, 200])
def test_curves_of_any_length_are_drawn(tmp_path, count):
    steps = np.arange(1, count + 1)
    curve = steps, 100.0 / steps
    curves = {"loss": curve, "validation/loss": curve, "learning_rate": (steps, 0 * curve[1]), "validation/a_$": curve}
    draw_curves(curves, "run_$x$", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    draw_curves({"loss": curve}, "one", tmp_path / "one.png")
