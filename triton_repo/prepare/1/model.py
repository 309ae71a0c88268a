"""The first step in Triton server: an encoded video in, what the engines take and the facts of its result out."""

import dataclasses
import json
import logging
import time
from pathlib import Path

import numpy as np

from diffvqa_rt.errors import InputError
from diffvqa_rt.metric import Request
from diffvqa_rt.scoring import model_facts, open_prompt_reading
from diffvqa_rt.serving.decoding import Decoder
from diffvqa_rt.serving.models import request_options, served_stages
from diffvqa_rt.serving.python_backend import CalledModelError, Responder, UnavailableError, call_model

logger = logging.getLogger(__name__)


class TritonPythonModel:
    def initialize(self, args):
        self._responder = Responder(args)
        settings = self._responder.settings
        manifest = settings.manifest()
        self._metric, self._config = manifest.metric, manifest.config
        self._options = request_options(self._metric)
        self._is_production = settings.form == "production"
        self._dali = self._responder.parameters.get("dali")
        # DALI where its decoders make other videos' input: a score must not depend on the codec's luck.
        self._resized_by = "dali" if self._dali else "pillow"
        self._decoder = Decoder(
            self._metric, self._config, settings.limits, settings.python, max_rows=settings.max_rows
        )
        self._read_prompt = open_prompt_reading(manifest, Path(settings.engines))
        facts = dataclasses.asdict(model_facts(manifest, settings.backend, self._resized_by))
        self._facts = {
            name: as_json({**facts, "stages": served_stages(chain)})
            for name, chain in self._metric.chains(self._config).items()
        }
        self._scales = pixel_scales(self._metric, self._config) if self._is_production else {}

    def execute(self, requests):
        return self._responder.answer(requests, self._prepare)

    def _prepare(self, request):
        inputs, received = request.inputs, time.monotonic()
        if self._responder.is_stopped:
            raise UnavailableError("the server is stopping; ask again later, or another one")
        asked = {spec.name: inputs[spec.name] for spec in self._options if spec.name in inputs}
        asked = {name: text_of(values) if name == "prompt" else values[0].item() for name, values in asked.items()}
        asked = Request(**asked, resized_by=self._resized_by)
        video = inputs["video"].data
        prepared = self._prepare_on_device(video, asked) if self._dali else None
        arrays, decoded, regions, decode_seconds = prepared or self._prepare_on_host(video, asked)
        prompt = None if asked.prompt is None else self._read_prompt(asked.prompt)
        facts = video_facts(decoded, prompt) | {"crop_regions": regions}
        return {
            **arrays,
            **(prompt.arrays if prompt else {}),
            "timestamps_seconds": np.array(decoded.timestamps_seconds),
            "video_info": as_json(facts),
            "model": self._facts[self._metric.choose(asked)],
            "preprocess_marks": np.array([received, received + decode_seconds, time.monotonic()]),
        }

    def _prepare_on_host(self, video, asked):
        decoded = self._decoder.decode(video, asked)
        # Pixels to other processes of ours, a quarter of the bytes; to engines that Triton server plays, their input.
        arrays = {
            name: self._scales[name].normalize(array) if name in self._scales else array
            for name, array in decoded.arrays.items()
        }
        return arrays, decoded, decoded.crop_regions, decoded.decode_seconds

    def _prepare_on_device(self, video, asked):
        """The same by the model `dali`, on its GPU; None where the video is for the host, or DALI fails at it.

        Interlaced video is for the host.
        """
        start = time.monotonic()
        planned = self._decoder.plan(video, asked)
        plan_seconds = time.monotonic() - start
        if planned is None:
            return None
        plan, regions = planned
        plan = dataclasses.replace(plan, warnings=plan.warnings + self._metric.warnings(self._config, plan.info))
        names = [spec.name for spec in self._metric.inputs(self._config)]
        try:
            # One by one: a row has the whole video with it, and the memory between processes is small.
            rows = [
                call_model(self._dali, {name: array[None] for name, array in row.items()}, names)
                for row in self._metric.on_device.rows(self._config, plan, regions)
            ]
            arrays = {name: np.concatenate([row[name] for row in rows]) for name in names}
            return arrays, plan, regions, plan_seconds
        except (UnavailableError, CalledModelError) as error:
            logger.warning("%s; decoding on the host", error)
            return None

    def finalize(self):
        self._decoder.close()


def pixel_scales(metric, config):
    """The scale of each input that is made of pixels; those who read it agree on it."""
    engines = metric.engines(config).values()
    return {name: scale for engine in engines for name, scale in engine.pixels.items()}


def video_facts(decoded, prompt):
    """The content of the tensor `video_info`: the fields of `VideoInfo`, the warnings, and the prompt if there is one.

    Warnings are the decoder's and the prompt's.
    """
    found = decoded.warnings + (prompt.warnings if prompt else ())
    facts = {**dataclasses.asdict(decoded.info), "warnings": [dataclasses.asdict(warning) for warning in found]}
    return facts | ({"prompt": dataclasses.asdict(prompt.facts)} if prompt else {})


def text_of(content):
    """The text of UTF-8 bytes."""
    try:
        return content.tobytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"prompt is no text in UTF-8 ({error.reason} at byte {error.start})") from None


def as_json(facts):
    """The bytes of a dictionary's JSON, [bytes] uint8."""
    return np.frombuffer(json.dumps(facts).encode(), np.uint8)
