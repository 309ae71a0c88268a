"""Mutated bodies to the HTTP API, a few of those that `make fuzz` sends: nothing but answers and refusals."""

import pytest

pytest.importorskip("http_api", reason="needs the extras http and serve", exc_type=ImportError)
pytest.importorskip("served", reason="needs Triton server and its client", exc_type=ImportError)

from fuzz.http_bodies import fuzz_bodies


def test_mutated_bodies_are_answered_or_refused():
    outcomes = fuzz_bodies(300, seed=1)
    assert outcomes.faults == ()
    assert outcomes.outcomes.keys() >= {"200", "400", "cut off"} and sum(outcomes.outcomes.values()) == 300
