"""The last step in Triton server: the results, and what each stage took, for the client and for Prometheus."""

import json
import time

import numpy as np

from diffvqa_rt.errors import InputError
from diffvqa_rt.serving.metrics import ScoreMetrics
from diffvqa_rt.serving.models import MARKS, marks_of, served_stages, timed_stages
from diffvqa_rt.serving.python_backend import Responder


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        manifest = self._responder.settings.manifest()
        self._metric, self._config = manifest.metric, manifest.config
        self._given = json.loads(self._responder.parameters["given"])
        chain = self._metric.chains(self._config)[self._responder.parameters["chain"]]
        self._timed, self._names = timed_stages(chain), served_stages(chain)
        self._metrics = ScoreMetrics(self._responder.parameters["chain"], self._names, self._config.score_range)

    def execute(self, requests):
        return self._responder.answer(requests, self._finish)

    def _finish(self, request):
        seconds = np.array(self._seconds(request.inputs, time.monotonic()))
        if not (seconds >= 0).all():
            marks = [MARKS, *(marks_of(loop) for _, loop in self._timed if loop is not None)]
            raise InputError(f"{' and '.join(marks)} say that the stages took {seconds} s")
        outputs = {name: request.inputs[tensor] for tensor, name in self._given.items()}
        results = self._metric.finish(self._config, outputs, len(request.inputs["timestamps_seconds"]))
        score = results["score"]
        if not np.isfinite(score).all():
            raise ArithmeticError(f"the network's score is {score}; check the engines with diffvqa info")
        self._metrics.observe(dict(zip(self._names, seconds.tolist(), strict=True)), float(score.mean()))
        return {**results, "stage_seconds": seconds}

    def _seconds(self, inputs, now):
        """The seconds of each stage.

        A loop's model says when it started and ended; the engines before and after it fill the rest.

        All processes have the system's clock.
        """
        received, decoded, prepared = inputs[MARKS].tolist()
        seconds, position = [decoded - received, prepared - decoded], prepared
        for (_, loop), (_, follower) in zip(self._timed, [*self._timed[1:], (None, None)], strict=True):
            if loop is not None:
                end = float(inputs[marks_of(loop)][1])
            else:
                end = now if follower is None else float(inputs[marks_of(follower)][0])
            seconds.append(end - position)
            position = end
        return seconds
