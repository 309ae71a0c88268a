"""Thousands of mutated bodies to the HTTP API: refused or answered, and its process lives on without growing."""

import contextlib
import dataclasses
import json
import random
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from http_api import Api, api_before_a_stand_in, score_of
from served import free_ports

from fuzz.mutations import cut_out, flip_bits, flip_bits_of_the_header, move, overwrite, put_a_number, repeat, truncate

THREADS = 8
MOST_GROWTH_MIB = 48.0
WARM_UP_CASES = 1000
MUTATIONS = (flip_bits, flip_bits_of_the_header, overwrite, truncate, cut_out, repeat, move, put_a_number)
GOOD = b"a good video\0"
_BOUNDARY = "multipart/form-data; boundary=b"
_FORM = (
    b'--b\r\nContent-Disposition: form-data; name="video"; filename="one.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
    + GOOD
    + b'\r\n--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n0\r\n'
    + b'--b\r\nContent-Disposition: form-data; name="video"; filename="\xc3\xbc.mp4"\r\n\r\nanother\0\r\n--b--\r\n'
)
_JSON = json.dumps({"videos": [{"video": "YSB2aWRlbwA=", "name": "one", "prompt": ["a", "b"]}], "seed": 1}).encode()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BodyOutcomes:
    """The statuses that came of the cases, the API's memory after the warm-up and at the end, and what must not be."""

    count: int
    seed: int
    outcomes: Mapping[str, int]
    memory_mib: tuple[float, float]
    faults: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def fuzz_bodies(count: int, seed: int) -> BodyOutcomes:
    """Starts an API before a stand-in of the ensembles, and sends it the cases of a seed, some at a time."""
    with tempfile.TemporaryDirectory() as folder, api_before_a_stand_in(Path(folder), free_ports(4)) as api:
        return fuzz_api(api, count, seed)


def fuzz_api(api: Api, count: int, seed: int) -> BodyOutcomes:
    """Sends the cases of a seed to an API."""
    faults: list[str] = []

    def send(number: int) -> str:
        generator = random.Random(f"{seed}, {number}")
        outcome = _cut_off(api, generator) if generator.random() < 0.1 else _whole(api, generator)
        if outcome in ("500", "no answer"):
            faults.append(f"{outcome} (seed {seed}, case {number})")
        return outcome

    warm = min(WARM_UP_CASES, count // 3)
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = Counter(pool.map(send, range(warm)))
        before = api.memory_mib
        outcomes.update(pool.map(send, range(warm, count)))
    after = api.memory_mib  # of the process that was there at first, or this fails
    if after - before > MOST_GROWTH_MIB:
        faults.append(f"memory grew from {before:.0f} to {after:.0f} MiB (seed {seed})")
    good = api.post(files={"video": ("good.mp4", GOOD)})
    if good.json()["results"][0]["score"] != score_of(GOOD):
        faults.append(f"the good request got {good.text} (seed {seed})")
    return BodyOutcomes(
        count=count,
        seed=seed,
        outcomes=dict(sorted(outcomes.items())),
        memory_mib=(before, after),
        faults=tuple(faults),
    )


def _case(generator: random.Random) -> tuple[str, bytes]:
    """A content type, and a mutated body."""
    kind, body = generator.choice([(_BOUNDARY, _FORM), (_BOUNDARY, _FORM), ("application/json", _JSON)])
    mutated = bytearray(body)
    for _ in range(generator.randrange(1, 4)):
        if len(mutated) > 1:  # some mutations need something to take away
            mutated = generator.choice(MUTATIONS)(mutated, generator)
    return kind, bytes(mutated)


def _whole(api: Api, generator: random.Random) -> str:
    kind, body = _case(generator)
    try:
        answer = api.post(data=body, headers={"Content-Type": kind})
    except requests.RequestException:
        return "no answer"
    return str(answer.status_code)


def _cut_off(api: Api, generator: random.Random) -> str:
    """A body that its sender leaves in the middle, or whose length is another than it says."""
    kind, body = _case(generator)
    length = len(body) + generator.choice([-1, 1, 10**6, 10**15])
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", api.port), 30) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(generator.random() / 50)
    return "cut off"
