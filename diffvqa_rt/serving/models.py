"""The served models and the ensemble of a metric, from its chain.

A request passes `preprocess`, then the chain, then `finish`, which makes the results, times them and counts the score.
An engine's served model has its engine's tensors. In the embedded form our Python plays the engines: pixels stay uint8
until an engine's process normalises them, since they cross between processes several times, and a loop's model plays
all turns. In the production form Triton server plays the engines: a loop's model asks for all turns but the last, and
that one is a step of the ensemble, so that what the loop keeps of it stays on the GPU.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from diffvqa_rt.chain import STEP, Call, Chain, Loop, given_names
from diffvqa_rt.chain_check import check_chain
from diffvqa_rt.metric import PREPARATION, Config, Metric
from diffvqa_rt.metrics.registry import DEFAULT
from diffvqa_rt.specs import EngineSpec, TensorSpec

Form = Literal["embedded", "production"]
"""How a server runs the engines. `embedded`: our Python processes, on any Linux machine. `production`: Triton server's
TensorRT or ONNX Runtime backend on a GPU, fed by DALI."""

Program = Literal["prepare", "engine", "loop", "finish"]
"""A folder of `triton_repo/`, whose `1/model.py` plays a served model."""

MARKS = "preprocess_marks"
"""What the monotonic clock showed when a request was received, decoded and prepared, [3] float64."""

_VIDEO = TensorSpec("video", "uint8", ("bytes",))
_OPTIONS = (
    TensorSpec("seed", "int64", (1,)),
    TensorSpec("crops", "int32", (1,)),
    TensorSpec("keep_interlaced", "bool", (1,)),
    TensorSpec("frames", "int32", (1,)),
    TensorSpec("prompt", "uint8", ("prompt_bytes",)),  # UTF-8
)
_FOR_ALL = frozenset({"seed", "keep_interlaced"})
_LAST_STEP = "last_step"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleStep:
    """A served model in an ensemble: its tensors' names → the ensemble's."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One served model. Its shapes are whole: Triton server adds no axis of its own to them.

    Attributes:
        name: in the server.
        inputs, outputs: the tensors; `videos` is any number, and crops of one video are rows of it.
        optional: the inputs that a request may leave out.
        program: what of `triton_repo/` plays it; None where Triton server plays it by itself.
        engine: the engine that Triton server plays by itself, `dali` for that graph; None elsewhere.
        instances: how many of it there are.
        stage: the metric's stage that it is; None of the rest.
        parameters: what `program` is told beside the settings.
        steps: of an ensemble.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional: frozenset[str] = frozenset()
    program: Program | None = None
    engine: str | None = None
    instances: int = 1
    stage: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[EnsembleStep, ...] = ()


def served_models(metric: Metric, config: Config, form: Form) -> dict[str, ServedModel]:
    """The served models of a network by name, in the order in which a video passes them; the ensembles last.

    Raises:
        ValueError: the metric's declaration does not fit together.
    """
    models: dict[str, ServedModel] = {}
    for name, chain in metric.chains(config).items():
        for model in _Chain(metric, config, form, name, chain).models():
            if models.setdefault(model.name, model) != model:
                raise ValueError(f"the chains of {metric.name} want different models named {model.name}")
    return models


def timed_stages(chain: Chain) -> list[tuple[str, Loop | None]]:
    """The parts that a server tells apart in the time of a request, with the loop that it is.

    Engines that follow each other without a loop between them are one: no process of ours stands between them.
    """
    stages: list[tuple[str, Loop | None]] = []
    for item in chain:
        if isinstance(item, Loop):
            stages.append((item.stage, item))
        elif stages and stages[-1][1] is None:
            stages[-1] = (f"{stages[-1][0]}+{item.stage}", None)
        else:
            stages.append((item.stage, None))
    return stages


def served_stages(chain: Chain) -> tuple[str, ...]:
    """The names of what `stage_seconds` has of a request."""
    return (*PREPARATION, *(name for name, _ in timed_stages(chain)))


def marks_of(loop: Loop) -> str:
    """The tensor, [2] float64, that says when a loop started and ended."""
    return f"{loop.stage}_marks"


def request_options(metric: Metric) -> tuple[TensorSpec, ...]:
    """The tensors that a request to a metric's ensemble may have beside the video."""
    return tuple(spec for spec in _OPTIONS if spec.name in _FOR_ALL | metric.options)


class _Chain:
    """One chain's served models."""

    def __init__(self, metric: Metric, config: Config, form: Form, name: str, chain: Chain) -> None:
        self._metric, self._config, self._name, self._chain = metric, config, name, chain
        self._is_embedded = form == "embedded"
        self._engines: dict[str, EngineSpec] = metric.engines(config)
        self._made = metric.given(config)
        self._tensors = check_chain(chain, self._engines, self._made)
        self._started_from = frozenset(given_names(chain))
        self._loops = [item for item in chain if isinstance(item, Loop)]
        # Clients and dashboards know those of the first metric by these names.
        self._prefix = "" if metric.name == DEFAULT else f"{metric.name}-"
        self._request = (_VIDEO, *request_options(metric))
        self._optional = frozenset(spec.name for spec in request_options(metric))
        self._results = metric.results(config, name)
        read = {name for item in chain for name in item.reads}
        self._outputs = [self._tensors[name] for item in chain for name in item.writes if name not in read]

    def models(self) -> list[ServedModel]:
        models = [*self._dali(), self._preprocess()]
        for item, follower in zip(self._chain, (*self._chain[1:], None), strict=True):
            if isinstance(item, Call):
                models.append(self._engine(item, follower))
            else:
                models += [self._loop(item)] if self._is_embedded else [self._loop(item), self._turn(item)]
        return [*models, self._finish(), self._ensemble()]

    @property
    def _facts(self) -> tuple[TensorSpec, ...]:
        return (
            self._timestamps,
            # JSON in UTF-8: `VideoInfo` with the warnings, and `ModelFacts` with the stages' names. Bytes, since text
            # needs NumPy's objects on the server's side.
            TensorSpec("video_info", "uint8", ("video_info_bytes",)),
            TensorSpec("model", "uint8", ("model_bytes",)),
        )

    @property
    def _timestamps(self) -> TensorSpec:
        is_fixed = self._metric.is_temporal and "frames" not in self._metric.options
        return TensorSpec(
            "timestamps_seconds", "float64", (self._metric.frames(self._config) if is_fixed else "frames",)
        )

    @property
    def _preprocess_marks(self) -> TensorSpec:
        return TensorSpec(MARKS, "float64", (3,))

    @property
    def _stage_seconds(self) -> TensorSpec:
        return TensorSpec("stage_seconds", "float64", (len(served_stages(self._chain)),))

    def _crossing(self, name: str) -> TensorSpec:
        """A tensor of the chain between served models: pixels are normalised where the engines are not ours."""
        spec = self._tensors[name]
        is_normalised = not self._is_embedded and spec in self._made and spec.dtype == "uint8"
        return TensorSpec(name, "float32", spec.shape) if is_normalised else spec

    def _dali(self) -> list[ServedModel]:
        # DALI must not be given bytes that were not looked at: `preprocess` is all that calls it.
        device = self._metric.on_device
        if self._is_embedded or device is None:
            return []
        return [
            ServedModel(
                name=f"{self._prefix}dali",
                inputs=device.inputs(self._config),
                outputs=tuple(self._crossing(spec.name) for spec in self._metric.inputs(self._config)),
                engine="dali",
            )
        ]

    def _preprocess(self) -> ServedModel:
        dali = self._dali()
        return ServedModel(
            name=f"{self._prefix}preprocess",
            inputs=self._request,
            outputs=(*(self._crossing(spec.name) for spec in self._made), *self._facts, self._preprocess_marks),
            optional=self._optional,
            program="prepare",
            instances=2,  # a video that takes long to decode holds up no other
            stage="preprocess",
            parameters={"dali": dali[0].name} if dali else {},
        )

    def _engine(self, call: Call, follower: Call | Loop | None) -> ServedModel:
        spec = self._engines[call.engine]
        if not self._is_embedded:
            return ServedModel(
                name=f"{self._prefix}{call.engine}",
                inputs=tuple(self._crossing(tensor.name) for tensor in spec.inputs),
                # Triton server's ONNX Runtime backend wants outputs as they are in the file, dynamic axes too.
                outputs=spec.outputs,
                engine=call.engine,
                stage=call.stage,
            )
        # What comes before a loop waits for it: see `Responder.wait_until_free`.
        handing_over = {"hands_over_to": f"{self._prefix}{follower.stage}"} if isinstance(follower, Loop) else {}
        return ServedModel(
            name=f"{self._prefix}{call.engine}",
            inputs=tuple(map(self._crossing, (*spec.input_names, *self._waits_for(call)))),
            outputs=tuple(self._crossing(name) for name in call.outputs),
            program="engine",
            stage=call.stage,
            parameters={"stage": call.stage, **handing_over},
        )

    def _waits_for(self, call: Call) -> tuple[str, ...]:
        """The tensor that an engine's model takes only to run after the engine before it.

        Steps of an ensemble that begin together end Triton server 2.51 where their client has hung up by then: it
        releases a request that it still uses (triton-inference-server/core#483, mended before production's images).
        """
        place = self._chain.index(call)
        before = self._chain[place - 1].writes if place else ()
        return () if not self._is_embedded or call.reads.intersection(before) else before[:1]

    def _loop(self, loop: Loop) -> ServedModel:
        marks = TensorSpec(marks_of(loop), "float64", (2,))
        outputs = [self._crossing(name) for name in loop.keep]
        if not self._is_embedded:
            early = [self._crossing(name) for name, (_, turn) in loop.keep.items() if turn < loop.count - 1]
            outputs = [*self._carried(loop), *early, TensorSpec(_LAST_STEP, "int64", (1,))]
        return ServedModel(
            name=f"{self._prefix}{loop.stage}",
            inputs=(*map(self._crossing, _ordered_reads(loop)), self._preprocess_marks),
            outputs=(*outputs, marks),
            # It ends between two turns where the client's time, which began when the video was received, is over.
            optional=frozenset({MARKS}),
            program="loop",
            # In the production form one works on the host while the other waits for its step.
            instances=1 if self._is_embedded else 2,
            stage=loop.stage,
            parameters={
                "stage": loop.stage,
                **({} if self._is_embedded else {"engine_model": f"{self._prefix}{loop.engine}"}),
            },
        )

    def _carried(self, loop: Loop) -> list[TensorSpec]:
        """The tensors that the last turn takes of the turn before."""
        starts = ((name, self._crossing(source)) for name, source in loop.start.items())
        return [TensorSpec(name, spec.dtype, spec.shape) for name, spec in starts]

    def _turn(self, loop: Loop) -> ServedModel:
        """The loop's engine, played by Triton server."""
        spec = self._engines[loop.engine]
        known = {tensor.name: tensor for tensor in (*map(self._crossing, loop.inputs), *self._carried(loop))}
        return ServedModel(
            name=f"{self._prefix}{loop.engine}",
            inputs=tuple(known.get(tensor.name, tensor) for tensor in spec.inputs),
            outputs=spec.outputs,
            engine=loop.engine,
        )

    def _finish(self) -> ServedModel:
        given = tuple(TensorSpec(self._inside(spec.name), spec.dtype, spec.shape) for spec in self._outputs)
        marks = (self._preprocess_marks, *(TensorSpec(marks_of(loop), "float64", (2,)) for loop in self._loops))
        return ServedModel(
            name=f"{self._prefix}finish" if self._name == self._metric.name else f"{self._name}-finish",
            inputs=(*given, self._timestamps, *marks),
            outputs=(*self._results, self._stage_seconds),
            program="finish",
            parameters={
                "chain": self._name,
                "given": json.dumps({self._inside(spec.name): spec.name for spec in self._outputs}),
            },
        )

    def _inside(self, name: str) -> str:
        """A tensor's name in the ensemble. What `finish` gives has its own name there."""
        if name not in {spec.name for spec in self._results}:
            return name
        return f"{next(item.stage for item in self._chain if name in item.writes)}_{name}"

    def _ensemble(self) -> ServedModel:
        # Without its prompt a chain that reads one cannot run, and another one would pass over it.
        prompts = self._metric.prompts.inputs(self._config) if self._metric.prompts else ()
        reads_prompt = any(spec.name in self._started_from for spec in prompts)
        inputs = tuple(spec for spec in self._request if spec.name != "prompt" or reads_prompt)
        return ServedModel(
            name=self._name,
            inputs=inputs,
            outputs=(*self._results, *self._facts, self._stage_seconds),
            optional=self._optional - {"prompt"},
            steps=tuple(self._steps(inputs)),
        )

    def _steps(self, inputs: Iterable[TensorSpec]) -> Iterator[EnsembleStep]:
        preprocess, finish = self._preprocess(), self._finish()
        unread = {spec.name for spec in self._made} - self._started_from
        yield EnsembleStep(
            model=preprocess.name,
            inputs=_named_alike(inputs),
            outputs=_named_alike(spec for spec in preprocess.outputs if spec.name not in unread),
        )
        for item in self._chain:
            if isinstance(item, Call):
                yield EnsembleStep(
                    model=f"{self._prefix}{item.engine}",
                    inputs={name: self._inside(name) for name in (*item.inputs, *self._waits_for(item))},
                    outputs={name: self._inside(name) for name in item.outputs},
                )
                continue
            loop = self._loop(item)
            yield EnsembleStep(
                model=loop.name,
                inputs=_named_alike(loop.inputs),
                outputs={spec.name: self._inside(spec.name) for spec in loop.outputs},
            )
            if not self._is_embedded:
                last = item.count - 1
                yield EnsembleStep(
                    model=f"{self._prefix}{item.engine}",
                    inputs={name: name for name in (*item.carry, *item.inputs)} | {STEP: _LAST_STEP},
                    outputs={output: self._inside(name) for name, (output, turn) in item.keep.items() if turn == last},
                )
        yield EnsembleStep(model=finish.name, inputs=_named_alike(finish.inputs), outputs=_named_alike(finish.outputs))


def _ordered_reads(loop: Loop) -> list[str]:
    return list(dict.fromkeys((*loop.inputs, *loop.start.values())))


def _named_alike(specs: Iterable[TensorSpec]) -> dict[str, str]:
    return {spec.name: spec.name for spec in specs}
