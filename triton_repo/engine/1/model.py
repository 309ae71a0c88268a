"""One engine of a metric's chain in Triton server's embedded form: all that this process opens."""

import dataclasses

from diffvqa_rt.chain import play
from diffvqa_rt.serving.python_backend import Responder, open_engine, stage_named


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        self._call = stage_named(self._responder)
        self._engine = open_engine(self._responder.settings, self._call.engine)

    def execute(self, requests):
        return self._responder.answer(requests, self._play)

    def _play(self, request):
        # What it waits for is among the others.
        inputs = {name: request.inputs[name] for name in self._call.inputs}
        self._responder.check_rows(inputs)
        wanted = tuple(name for name in self._call.outputs if name in request.wanted)
        call = dataclasses.replace(self._call, outputs=wanted)
        outputs = play((call,), {call.engine: self._engine}, inputs)
        if "hands_over_to" in self._responder.parameters:
            self._responder.wait_until_free(self._responder.parameters["hands_over_to"])
        return outputs

    def finalize(self):
        del self._engine
