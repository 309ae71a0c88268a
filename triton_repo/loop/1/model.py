"""A loop of a metric's chain in Triton server: what it keeps out, or what its last turn takes.

In the production form each turn is a request to the engine's model, and the last one is a step of the ensemble: what it
gives, 165 MB of features a video for DiffVQA at full size, then stays on the GPU, and no Python process ever holds a
tensor there.
"""

import time

import numpy as np

from diffvqa_rt.chain import play
from diffvqa_rt.serving.python_backend import CalledEngine, Responder, open_engine, stage_named


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        settings = self._responder.settings
        self._loop = stage_named(self._responder)
        self._is_production = settings.form == "production"
        if self._is_production:
            spec = settings.manifest().engine_specs()[self._loop.engine]
            self._engine = CalledEngine(self._responder.parameters["engine_model"], spec)
        else:
            # In this process: between two of them each turn costs 2 ms of waking up (two Xeon cores).
            self._engine = open_engine(settings, self._loop.engine)

    def execute(self, requests):
        return self._responder.answer(requests, self._play)

    def _play(self, request):
        tensors = {name: request.inputs[name] for name in self._loop.reads}
        self._responder.check_rows(tensors)
        marks = request.inputs.get("preprocess_marks")
        received = None if marks is None else float(marks[0])
        start = time.monotonic()

        def before_turn():
            request.require_owner(received)

        if self._is_production:
            outputs = self._all_turns_but_the_last(tensors, before_turn)
        else:
            outputs = play((self._loop,), {self._loop.engine: self._engine}, tensors, before_turn=before_turn)
        return {**outputs, f"{self._loop.stage}_marks": np.array([start, time.monotonic()])}

    def _all_turns_but_the_last(self, tensors, before_turn):
        earlier = self._loop.without_last_turn()
        last_step = np.array([self._loop.count - 1])
        if earlier is None:
            return {name: tensors[source] for name, source in self._loop.start.items()} | {"last_step": last_step}
        outputs = play((earlier,), {earlier.engine: self._engine}, tensors, before_turn=before_turn)
        return {**outputs, "last_step": last_step}
