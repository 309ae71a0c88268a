"""What the soak's clients ask, good and bad, and what each answer is to be."""

import json
import random
import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from clips import make_clip
from soak_http import HttpClient

from diffvqa_rt import Scorer
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.metrics.registry import DEFAULT, metric_named
from diffvqa_rt.serving import Client

ROOT = Path(__file__).parents[1]
LIMITS = {"--max-request-mib": 2, "--max-frames": 400, "--max-frame-pixels": 10**6, "--max-crops": 3}

TOO_MANY_ROWS = (
    "InputError: crops × frames is 25; this server takes at most 24: ask for fewer crops or frames"  # 3 crops of 8
)

Outcome = Literal["right", "swapped", "wrong", "lost"]
Answer = dict[str, Any] | str
"""A result without its times, or an error's class and sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A client's request. `refusal`: what a server of these limits answers to what this process would score."""

    video: bytes
    metric: str = DEFAULT
    seed: int = 0
    crops: int | None = None
    frames: int | None = None
    prompt: str | None = None
    refusal: str = ""


def make_requests(metrics: Collection[str] = (DEFAULT,)) -> dict[str, Request]:
    """Everything that clients ask of these metrics, by name.

    Each gets ten videos that can be scored and seven things that can't; where frames are scored alone, a part of the
    frames too; and where prompts are taken, good and bad ones.
    """
    requests: dict[str, Request] = {}
    for metric in metrics:
        options = metric_named(metric).options
        for name, request in _requests().items():
            needed = {name for name in ("frames", "prompt") if getattr(request, name) is not None}
            if needed <= options:
                requests[f"{metric}: {name}"] = replace(request, metric=metric)
    return requests


def _requests() -> dict[str, Request]:
    mp4 = make_clip(size=(320, 240), b_frames=2)
    png = make_clip("png", "image2pipe", pixel_format="rgb24", size=(90, 60), frames=1)
    huge = b"IHDR" + struct.pack(">II", 8000, 8000) + png[24:29]
    bomb = png[:12] + huge + struct.pack(">I", zlib.crc32(huge)) + png[33:]
    good = {
        "h264.mp4": mp4,
        "h265-10bit.mkv": make_clip("libx265", "matroska", pixel_format="yuv420p10le", size=(200, 220)),
        "vp9.webm": make_clip("libvpx-vp9", "webm", size=(240, 136)),
        "vp8.webm": make_clip("libvpx", "webm"),
        "mpeg2.mpg": make_clip("mpeg2video", "mpeg", size=(352, 288)),
        "rotated.mp4": make_clip(size=(400, 120), orientation=(90, True)),
        "prores-10bit.mov": make_clip("prores_ks", "mov", pixel_format="yuv422p10le", frames=5),
        "still.png": png,
        "frog.mp4": (ROOT / "examples" / "frog.mp4").read_bytes(),
    }
    bad = {
        "truncated": mp4[:600],
        "random bytes": random.Random(0).randbytes(5000),
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n",
    }
    beyond_limits = {
        "bytes": (bytes((2 << 20) + 1), "is 2,097,153 bytes long", "2,097,152"),
        "bomb": (bomb, "has 64,000,000 pixels a picture", "1,000,000"),
        # MPEG-TS does not say how many there are: they are decoded, and then too many.
        "long": (make_clip(container="mpegts", frames=420, size=(16, 16)), "has 420 frames", "400"),
    }
    return {
        **{name: Request(video=video) for name, video in good.items()},
        "two crops": Request(video=mp4, seed=7, crops=2),
        "three frames": Request(video=mp4, frames=3),
        "frames": Request(video=mp4, frames=25, refusal=TOO_MANY_ROWS),
        **{name: Request(video=video) for name, video in bad.items()},
        **{
            name: Request(
                video=video, refusal=f"VideoDecodeError: <bytes> {what}, and this server takes at most {limit}"
            )
            for name, (video, what, limit) in beyond_limits.items()
        },
        "crops": Request(video=mp4, crops=4, refusal="InputError: crops is 4; this server takes at most 3"),
        "prompt": Request(video=mp4, prompt="a green toy frog on a wooden table"),
        "another prompt, two crops": Request(video=mp4, prompt="two red trains at night", seed=7, crops=2),
        "prompt with signs": Request(video=mp4, prompt="\u00dcber \u732b\U0001f431\u202e, [SEP]\0\n" + 40 * "'"),
        "prompt of many words": Request(video=png, prompt="word " * 100),
        "blank prompt": Request(video=mp4, prompt=" \n"),
        "prompt to no video": Request(video=bad["random bytes"], prompt="a green toy frog"),
        "long prompt": Request(
            video=mp4,
            prompt="word " * 4000,
            refusal="InputError: prompt is 20,000 bytes long; this server takes at most 16,384",
        ),
    }


def answer_of(scorers: Mapping[str, Scorer | Client | HttpClient], request: Request) -> Answer:
    """The answer of whoever scores by the request's metric."""
    options = {"frames": request.frames} if request.frames else {}
    try:
        scorer = scorers[request.metric]
        asked = {"prompt": request.prompt, "seed": request.seed, "crops": request.crops, **options}
        # As a reader of JSON sees it, whoever scores.
        answer: dict[str, Any] = json.loads(json.dumps(scorer.score(request.video, **asked).as_dict()))
    except DiffVQAError as error:
        return f"{type(error).__name__}: {error}"
    del answer["stage_seconds"]
    return answer


def outcome_of(name: str, answer: Answer, expected: Mapping[str, Answer]) -> Outcome:
    """The right answer to request `name`, given what each request is to get."""
    if answer == expected[name]:
        return "right"
    if answer in expected.values():
        return "swapped"
    return "lost" if isinstance(answer, str) and answer.startswith("RequestError") else "wrong"
