"""What the benchmarks make of their seconds: ratios in turns, exponents, and the table at the end of a run."""

import pytest
from ratios import exponents, readable, table
from scaling import fitted_exponent
from turns import seconds_in_turns, speedup


def row(median, **extra):
    return {"name": f"test_stage[{extra.get('provider')}]", "median": median, "extra_info": extra}


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_a_power_is_found(exponent):
    sizes = [1, 2, 4, 8, 16]
    assert fitted_exponent(sizes, [0.3 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test_the_fit_is_the_line_of_least_squares():
    # In logarithms to the base 2: (0, 0), (1, 2), (2, 1); the slope is Σ (x − 1)(y − 1) / Σ (x − 1)² = 1/2.
    assert fitted_exponent([1, 2, 4], [1, 4, 2]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("values", "seconds", "sentence"),
    [
        ([1, 2], [1], "2 values and 1 seconds"),
        ([1, 0], [1, 1], "expected positive numbers"),
        ([1, 2], [1, -1], "expected positive numbers"),
        ([3, 3], [1, 2], "expected two different ones at least"),
    ],
)
def test_what_has_no_exponent_is_refused(values, seconds, sentence):
    with pytest.raises(ValueError, match=sentence):
        fitted_exponent(values, seconds)


def test_runs_take_turns_and_the_first_round_is_not_counted():
    order = []
    seconds = seconds_in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_a_speedup_is_the_median_of_the_rounds_own_ratios():
    # The machine halves its speed in the second round; the medians' own quotient would be 1.5.
    assert speedup([1.0, 2.0, 4.0], [2.0, 4.0, 3.0]) == 2.0


def test_a_table_has_each_groups_rows_with_their_ratios():
    rows = [
        row(
            0.128, provider="onnxruntime", baseline=False, speedup_over_pytorch=2.41, baseline_seconds={"pytorch": 0.3}
        ),
        row(0.312, provider="pytorch", baseline=True),
    ]
    assert table([("vae_encoder: one video", rows)]) == [
        "",
        "vae_encoder: one video",
        "  onnxruntime     128 ms  2.41 x pytorch",
        "  pytorch         312 ms  baseline",
    ]


def test_a_baseline_without_a_row_of_its_own_is_shown():
    rows = [row(1.36, provider="served", speedup_over_in_process=0.98, baseline_seconds={"in_process": 1.33})]
    assert table([("one video", rows)])[2:] == [
        "  served         1.36 s  0.98 x in_process",
        "  in_process     1.33 s  baseline, in turns",
    ]


def test_a_ratio_that_was_not_taken_in_turns_is_one_of_medians():
    rows = [row(0.5, provider="ours"), row(1.0, provider="pytorch", baseline=True)]
    assert table([("scan", rows)])[2] == "  ours        500 ms  2 x pytorch, of medians"


def test_a_row_of_somebody_elses_benchmark_has_its_name():
    assert table([(None, [{"name": "test_it", "median": 2e-6, "extra_info": {}}])]) == [
        "",
        "(no group)",
        "  test_it    2.00 µs",
    ]


def test_an_axis_has_its_exponent():
    rows = [row(0.1 * n, provider="pytorch", baseline=True, axis="N", value=n) for n in (1, 2, 4)]
    rows += [row(0.1, provider="flat", axis="N", value=n, speedup_over_pytorch=float(n)) for n in (1, 2, 4)]
    rows += [row(0.1, provider="alone", axis="N", value=1)]
    assert exponents(rows) == ["pytorch: time ∝ N^1.00", "flat: time ∝ N^0.00"]
    lines = table([("scaling", rows)])
    assert "  flat, N = 4        100 ms  4 x pytorch" in lines and "  flat: time ∝ N^0.00" in lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.094, "1.09 s"),
        (123.4, "123 s"),
        (0.9996, "1.00 s"),
        (0.9994, "999 ms"),
        (0.0128, "12.8 ms"),
        (3.86e-6, "3.86 µs"),
    ],
)
def test_times_are_readable(seconds, text):
    assert readable(seconds) == text
