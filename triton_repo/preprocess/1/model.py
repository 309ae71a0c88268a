"""`preprocess` in Triton server: an encoded video's bytes in, its views and the facts of its result out."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from diffvqa_rt.scoring import model_facts
from diffvqa_rt.serving.decoding import Decoder
from diffvqa_rt.serving.python_backend import UnavailableError, answer_each, settings_from
from diffvqa_rt.serving.traffic import Traffic

DEFAULTS = {"seed": 0, "crops": 1}


def as_json(facts):
    """A dataclass as the bytes of its JSON, [bytes] uint8."""
    return np.frombuffer(json.dumps(dataclasses.asdict(facts)).encode(), np.uint8)


class TritonPythonModel:
    def initialize(self, args):
        settings = settings_from(args)
        manifest = settings.manifest()
        self._traffic = Traffic(Path(settings.traffic))
        self._decoder = Decoder(manifest.config, settings.limits, settings.python)
        self._facts = as_json(model_facts(manifest, settings.backend))

    def execute(self, requests):
        return answer_each(requests, self._prepare, self._traffic)

    def _prepare(self, inputs, wanted):
        if self._traffic.is_stopped:
            raise UnavailableError("the server is stopping; ask again later, or another one")
        seed, crops = (int(inputs[name][0]) if name in inputs else default for name, default in DEFAULTS.items())
        video = self._decoder.decode(inputs["video"].data, seed, crops)
        return {
            "frames": video.views,
            "timestamps_seconds": video.timestamps_seconds,
            "video_info": as_json(video.info),
            "model": self._facts,
            **{f"{stage}_seconds": seconds for stage, seconds in video.stage_seconds.items()},
        }

    def finalize(self):
        self._decoder.close()
