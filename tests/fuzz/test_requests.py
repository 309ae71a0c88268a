"""Mutated requests to the real server, a few of those that `make fuzz` sends: nothing but answers and refusals."""

import pytest

pytest.importorskip("served", reason="needs Triton server and its client", exc_type=ImportError)

import grpc
from served import Served
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

import fuzz.served_requests
from fuzz.calls import Call, make_case
from fuzz.inference import Corpus, good_request, read_corpus
from fuzz.served_requests import fuzz_served


@pytest.fixture
def corpus(served: Served) -> Corpus:
    with grpc.insecure_channel(served.url) as channel:
        return read_corpus(GRPCInferenceServiceStub(channel))


def test_mutated_requests_are_answered_or_refused(served):
    # `tiny` takes a second for a video, and not all of the requests need to be for what is slow.
    outcomes = fuzz_served(served, 100, seed=1, models=("head", "finish", "preprocess"))
    assert outcomes.faults == ()
    assert outcomes.outcomes.keys() >= {"answered", "cancelled", "refused: INVALID_ARGUMENT", "refused: UNAVAILABLE"}
    assert outcomes.as_dict()["by_kind"]["good"] == {"answered": 2}


def test_a_case_follows_from_its_seed_and_number(corpus):
    cases = [make_case(corpus, 3, index) for index in range(1, 60)]
    assert cases == [make_case(corpus, 3, index) for index in range(1, 60)]
    assert cases != [make_case(corpus, 4, index) for index in range(1, 60)]


def test_what_must_not_be_is_told_with_what_to_repeat(served, monkeypatch):
    def one_of_three(corpus: Corpus, seed: int, index: int) -> Call:
        request = good_request(corpus)
        request.inputs.add(name="seed", datatype="INT64", shape=[1])
        request.raw_input_contents.append(index.to_bytes(8, "little"))
        good = Call(kinds=("good",), method="ModelInfer", messages=(request.SerializeToString(),))
        live = Call(kinds=("ServerLive",), method="ServerLive", messages=(b"",))
        slow = Call(kinds=("valid",), method="ModelInfer", messages=good.messages, deadline_seconds=0.01)
        return {0: good, 1: live, 2: slow, 200: good}[index]

    monkeypatch.setattr(fuzz.served_requests, "make_case", one_of_three)
    monkeypatch.setattr(fuzz.served_requests, "CLOSED", ("ServerLive",))
    monkeypatch.setattr(fuzz.served_requests, "DEADLINE_SECONDS", 0.01)
    faults = "\n".join(fuzz_served(served, 2, seed=7, first=1).faults)
    assert "ServerLive is open (seed 7, case 1: ServerLive)" in faults
    assert "no answer in 0.01 s (seed 7, case 2: valid)" in faults
    assert "the good request got " in faults and "(seed 7, case 200: good)" in faults
