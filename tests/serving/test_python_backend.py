"""Errors of a served model: the request's own get INVALID_ARGUMENT, and every other exception is the server's fault."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clips import make_clip

from diffvqa_rt.errors import DecoderFaultError, DecoderStartError, EngineMismatchError, InputError, VideoDecodeError
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.serving.settings import RequestLimits, StageSettings
from diffvqa_rt.video.plan import plan_decoding

OUR_MODULES = ("diffvqa_rt.serving.metrics", "diffvqa_rt.serving.python_backend")

PROGRAMS = Path(__file__).parents[2] / "triton_repo"


class Tensor:
    """Stands in for the `Tensor` of Triton server's Python backend."""

    def __init__(self, name, array=None):
        self._name, self._array = name, array

    @classmethod
    def from_dlpack(cls, name, capsule):
        return cls(name)

    def name(self):
        return self._name

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class TritonError:
    INVALID_ARG, INTERNAL, UNAVAILABLE, CANCELLED = "INVALID_ARG", "INTERNAL", "UNAVAILABLE", "CANCELLED"

    def __init__(self, message, code):
        self.message, self.code = lambda: message, lambda: code


class Response:
    def __init__(self, output_tensors=(), error=None):
        self.output_tensors, self.has_error = lambda: list(output_tensors), lambda: error is not None
        self.error = lambda: error


class Request:
    """A request of tensors by name."""

    def __init__(self, **arrays):
        self._arrays = arrays

    def requested_output_names(self):
        return ["score"]

    def timeout(self):
        return 0

    def is_cancelled(self):
        return False

    def inputs(self):
        return [Tensor(name, array) for name, array in self._arrays.items()]


class Counter:
    def __init__(self, counted, reason):
        self._counted, self._reason = counted, reason

    def increment(self, count):
        self._counted.append(self._reason)


class Backend:
    """`diffvqa_rt.serving.python_backend` on a stand-in for Triton server.

    Attributes:
        module: that module.
        counted: the reason of each failure that Prometheus is told of.
    """

    def __init__(self, patch, folder):
        self.counted: list[str] = []
        self._called: Response | None = None
        family = SimpleNamespace(Metric=lambda labels: Counter(self.counted, labels["reason"]))
        utils = SimpleNamespace(
            TritonError=TritonError,
            InferenceResponse=Response,
            Tensor=Tensor,
            MetricFamily=type("MetricFamily", (), {"COUNTER": 0, "__new__": lambda cls, **_: family}),
            InferenceRequest=lambda **_: SimpleNamespace(exec=lambda: self._called),
            PreferredMemory=lambda *_: None,
            TRITONSERVER_MEMORY_CPU=0,
        )
        patch.setitem(sys.modules, "triton_python_backend_utils", utils)
        for name in OUR_MODULES:
            patch.delitem(sys.modules, name, raising=False)
        self.module = importlib.import_module(OUR_MODULES[-1])
        self._settings = StageSettings(
            form="embedded",
            engines="",
            manifest_sha256="",
            backend="onnx",
            threads=None,
            python=sys.executable,
            traffic=str(folder / "traffic"),
            limits=RequestLimits(max_crops=3),
            max_rows=3,
        )

    def arguments(self, *inputs):
        """The arguments of a model's `initialize`; the model has these inputs."""
        config = {
            "parameters": {"settings": {"string_value": self._settings.to_json()}},
            "input": [{"name": name} for name in inputs],
        }
        return {"model_config": json.dumps(config), "model_name": "head", "model_instance_name": "head_0_0"}

    def answer(self, work, **arrays):
        """The error's code and sentence, or None, and the reasons that were counted."""
        (response,) = self.module.Responder(self.arguments()).answer([Request(**arrays)], work)
        return self.outcome(response)

    def outcome(self, response):
        error = response.error()
        return (error.code(), error.message()) if error else None, self.counted

    def call(self, error):
        """Has another model of the server fail so, and calls it."""
        self._called = Response(error=error)
        return self.module.call_model("other", {}, ["score"])


@pytest.fixture
def backend(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        yield Backend(patch, tmp_path)
    for name in OUR_MODULES:
        sys.modules.pop(name, None)


def failing(error):
    def work(request):
        raise error

    return work


@pytest.mark.parametrize("error", [InputError("seed is -1"), VideoDecodeError("<bytes> is empty")])
def test_the_requests_fault_is_refused(backend, error):
    assert backend.answer(failing(error)) == (("INVALID_ARG", str(error)), ["refused"])


@pytest.mark.parametrize(
    "error",
    [
        ValueError("head takes frames"),
        TypeError("a bug"),
        KeyError("frames"),
        ArithmeticError("the network's score is not finite"),
        MemoryError(),
        EngineMismatchError("the folder has changed"),
        DecoderStartError("no process"),
        DecoderFaultError("<bytes> met a fault"),
    ],
    ids=repr,
)
def test_every_other_exception_is_a_fault_of_the_server(backend, error):
    assert backend.answer(failing(error)) == (("INTERNAL", str(error) or type(error).__name__), ["fault"])


def test_a_server_that_stops_and_a_client_that_is_gone_are_neither(backend):
    module = backend.module
    assert backend.answer(failing(module.UnavailableError("stopping")))[0] == ("UNAVAILABLE", "stopping")
    assert backend.answer(failing(module.AbandonedError("gone")))[0] == ("CANCELLED", "gone")
    assert backend.counted == ["unavailable", "cancelled"]


def test_tensors_are_checked_before_the_model_works_on_them(backend):
    responder = backend.module.Responder(backend.arguments("z0"))
    (response,) = responder.answer([Request(other=np.ones(1, np.float32))], failing(AssertionError))
    assert backend.outcome(response) == (("INVALID_ARG", "z0 is missing; got other"), ["refused"])
    (response,) = responder.answer([Request(z0=np.float32([np.nan]))], failing(AssertionError))
    assert backend.outcome(response)[0] == ("INVALID_ARG", "z0 has values that are not finite")


def test_outputs_that_are_not_finite_are_a_fault(backend):
    nan = np.float32([np.nan])
    (code, sentence), counted = backend.answer(lambda request: {"score": nan}, z0=np.ones(1, np.float32))
    assert (code, counted) == ("INTERNAL", ["fault"]) and "the network's score is not finite" in sentence


def test_a_good_request_is_answered_with_what_it_wants(backend):
    responder = backend.module.Responder(backend.arguments("z0"))
    outputs = {"score": np.ones(1, np.float32), "other": np.ones(1)}
    (response,) = responder.answer([Request(z0=np.ones(1, np.float32))], lambda request: outputs)
    assert [tensor.name() for tensor in response.output_tensors()] == ["score"] and backend.counted == []


def test_a_called_models_errors_keep_their_kind(backend):
    module = backend.module
    with pytest.raises(InputError, match="z0 is too large"):
        backend.call(TritonError("z0 is too large", "INVALID_ARG"))
    with pytest.raises(module.UnavailableError, match="other gave no answer: away"):
        backend.call(TritonError("away", "UNAVAILABLE"))
    with pytest.raises(module.CalledModelError, match="other gave no answer: broken"):
        backend.call(TritonError("broken", "INTERNAL"))


def test_a_gpu_cuts_the_regions_that_the_decoder_found(backend, monkeypatch):
    """They may depend on a frame, which the decoder's process alone has seen."""
    model = runpy.run_path(str(PROGRAMS / "prepare" / "1" / "model.py"))["TritonPythonModel"]()
    regions, cut = ((3, 5, 195, 197), (6.5, 7.5, 70.5, 71.5)), []
    plan = plan_decoding(make_clip(size=(320, 240)), TINY.frames)

    def dali(name, inputs, outputs):
        cut.append(inputs["region"].tolist())
        return {"frames": np.full((1, 2), len(cut))}

    model._metric, model._config, model._dali = METRIC, TINY, "dali"
    model._decoder = SimpleNamespace(plan=lambda video, asked: (plan, regions))
    monkeypatch.setitem(model._prepare_on_device.__globals__, "call_model", dali)
    arrays, _, found, _ = model._prepare_on_device(plan.source, None)
    assert found == regions and arrays["frames"].tolist() == [[1, 1], [2, 2]]
    assert cut == [[[5, 3, 197, 195]], [[7.5, 6.5, 71.5, 70.5]]], "top, left, bottom, right"


class Engine:
    """`head`, with a bug where it is asked for one."""

    spec = engine_specs(TINY)["head"]
    max_videos = None

    def __init__(self, error=None):
        self._error = error

    def __call__(self, inputs, outputs):
        self.spec.check_inputs(inputs)
        if self._error:
            raise self._error
        return {name: np.ones(1, np.float32) for name in outputs}


def head_inputs(rows):
    sizes = {"videos": rows, "frames": 2 * TINY.frames}
    arrays = {
        spec.name: np.zeros([sizes.get(size, size) for size in spec.shape], spec.dtype) for spec in Engine.spec.inputs
    }
    return {**arrays, "frames": arrays["frames"].astype(np.uint8)}


@pytest.mark.parametrize(
    ("arrays", "error", "expected"),
    [
        (head_inputs(1), None, None),
        (head_inputs(1), ValueError("a bug of the engine"), ("INTERNAL", "a bug of the engine")),
        (head_inputs(4), None, ("INVALID_ARG", "1 to 3 rows at a time; got 4")),
        (
            {**head_inputs(1), "z0_hat": head_inputs(2)["z0_hat"]},
            None,
            ("INVALID_ARG", "all tensors have a row per crop; got 1, 2 rows"),
        ),
    ],
    ids=["good", "bug", "rows", "rows that differ"],
)
def test_an_engine_is_at_fault_for_what_is_not_the_requests(backend, monkeypatch, arrays, error, expected):
    monkeypatch.setattr(backend.module, "open_engine", lambda settings, name: Engine(error))
    monkeypatch.setattr(backend.module, "stage_named", lambda responder: METRIC.chain(TINY)[-1])
    model = runpy.run_path(str(PROGRAMS / "engine" / "1" / "model.py"))["TritonPythonModel"]()
    model.initialize(backend.arguments(*arrays))
    (response,) = model.execute([Request(**arrays)])
    found, counted = backend.outcome(response)
    if expected is None:
        assert (found, counted) == (None, [])
    else:
        assert found[0] == expected[0] and found[1].startswith(expected[1])
        assert counted == ["refused" if found[0] == "INVALID_ARG" else "fault"]
