"""What a hostile client does, one case a number: the same seed and number give the same case."""

import random
from dataclasses import dataclass
from typing import Any, Literal

from tritonclient.grpc import service_pb2 as pb

from fuzz.infer_mutations import KEYS, MUTATIONS, ODD_TEXTS, WHOLE_NUMBERS, mutated_bytes
from fuzz.inference import MODELS, Corpus, good_request, valid_request
from fuzz.wire import WireKind, wire_bytes

Port = Literal["grpc", "health", "metrics"]
Ending = Literal["whole", "cancelled", "left open"]
"""All is sent and the answers are read; given up after a while; never ended by the client, whose deadline ends it."""

DEADLINE_SECONDS = 20.0
SHORT_SECONDS = 0.5
GOOD_EVERY = 200
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
OPEN = frozenset({"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"})
INFERENCE = frozenset({"ModelInfer", "ModelStreamInfer"})
# `diffvqa serve` has them closed: they change the server, or say what is no client's business.
CLOSED = tuple(sorted({method.name for method in SERVICE.methods} - OPEN - INFERENCE))


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A gRPC call.

    Attributes:
        kinds: what was done to it, for the count.
        method: of the service.
        messages: serialized; a stream may have several.
        ending: how the client ends it, after `wait_seconds` unless it is `whole`.
        deadline_seconds: the call's.
        metadata: its headers.
        is_compressed: by gzip.
        waits: until there is a connection.
    """

    kinds: tuple[str, ...]
    method: str
    messages: tuple[bytes, ...]
    ending: Ending = "whole"
    wait_seconds: float = 0.0
    deadline_seconds: float = DEADLINE_SECONDS
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    is_compressed: bool = False
    waits: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    """A raw connection to one of the server's ports: what is written, and how it ends."""

    kinds: tuple[str, ...]
    port: Port
    content: bytes
    leaves_open: bool
    resets: bool


Case = Call | Wire


def make_case(corpus: Corpus, seed: int, index: int) -> Case:
    """The case of a number; every `GOOD_EVERY`th is the good request."""
    if index % GOOD_EVERY == 0:
        return Call(kinds=("good",), method="ModelInfer", messages=(good_request(corpus).SerializeToString(),))
    choose = random.Random(f"{seed}/{index}")
    make = choose.choices([_unary, _stream, _other_method, _wire], [68, 12, 12, 8])[0]
    return make(corpus, choose)


def _infer_message(corpus: Corpus, choose: random.Random) -> tuple[tuple[str, ...], bytes]:
    """A request for one of the models, serialized, and the kinds of its mutations."""
    model = choose.choice([choose.choice(corpus.models_of_videos), choose.choice(corpus.models)])
    request = valid_request(corpus, model, choose)
    count = choose.choices([0, 1, 2, 3], [3, 60, 27, 10])[0]
    kinds = tuple(choose.sample(list(MUTATIONS), count))
    for kind in kinds:
        MUTATIONS[kind](request, corpus, choose)
    message = request.SerializeToString()
    if choose.random() < 0.12:
        return (*kinds, "bytes"), mutated_bytes(message, choose)
    return kinds or ("valid",), message


def _unary(corpus: Corpus, choose: random.Random) -> Call:
    kinds, message = _infer_message(corpus, choose)
    extra = choose.choices(["", "cancelled", "deadline", "metadata", "gzip"], [84, 6, 4, 4, 2])[0]
    return Call(
        kinds=(*kinds, extra) if extra else kinds,
        method="ModelInfer",
        messages=(message,),
        ending="cancelled" if extra == "cancelled" else "whole",
        wait_seconds=choose.choice((0.0, choose.uniform(0, 0.01), choose.uniform(0, 0.3))),
        deadline_seconds=0.001 if extra == "deadline" else DEADLINE_SECONDS,
        metadata=_odd_metadata(choose) if extra == "metadata" else (),
        is_compressed=extra == "gzip",
    )


def _stream(corpus: Corpus, choose: random.Random) -> Call:
    made = [_infer_message(corpus, choose) for _ in range(choose.choice((0, 1, 1, 2, 3, 6)))]
    ending: Ending = choose.choices(["whole", "cancelled", "left open"], [60, 25, 15])[0]
    kinds = dict.fromkeys(kind for kinds, _ in made for kind in kinds)
    return Call(
        kinds=(f"stream, {ending}", *kinds),
        method="ModelStreamInfer",
        messages=tuple(message for _, message in made),
        ending=ending,
        wait_seconds=choose.choice((0.0, choose.uniform(0, 0.3))),
        deadline_seconds=SHORT_SECONDS if ending == "left open" else DEADLINE_SECONDS,
        metadata=_odd_metadata(choose) if choose.random() < 0.05 else (),
    )


def _odd_metadata(choose: random.Random) -> tuple[tuple[str, str | bytes], ...]:
    entries: list[tuple[str, str | bytes]] = [
        ("x", ""),
        ("x" * 200, "y" * 200),
        ("x-bin", choose.randbytes(50)),
        ("x", "y" * 6000),
        ("x", "y" * 20_000),
        ("triton-request-id", "1"),
        ("triton_grpc_error", "true"),
        ("traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"),
        ("traceparent", "x"),
        ("diffvqa", "1"),
        ("triton-grpc-protocol-diffvqa", ""),
        ("content-encoding", "gzip"),
        ("authorization", "Basic Og=="),
    ]
    return tuple(choose.sample(entries, choose.randrange(1, 4)))


def _other_method(corpus: Corpus, choose: random.Random) -> Call:
    """A call of any other method; what changes the server must be refused, whatever key it comes with."""
    name = choose.choice([*OPEN, *CLOSED, *CLOSED])
    method = SERVICE.methods_by_name[name]
    message = getattr(pb, method.input_type.name)()
    for field in method.input_type.fields:
        if field.message_type is not None:  # a map
            _add_entry(getattr(message, field.name), field.message_type.fields_by_name["value"].message_type, choose)
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, choose.choice([*MODELS, "1", "/dev/shm/x", *ODD_TEXTS]))
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, choose.randbytes(choose.choice((0, 64))))
        elif field.type == field.TYPE_BOOL:
            setattr(message, field.name, choose.random() < 0.5)
        else:
            limit = 2**63 if field.type == field.TYPE_INT64 else 2**64
            setattr(message, field.name, choose.choice(WHOLE_NUMBERS) % limit)
    content = message.SerializeToString()
    is_mutated = choose.random() < 0.2
    return Call(
        kinds=(name, "bytes") if is_mutated else (name,),
        method=name,
        messages=(mutated_bytes(content, choose) if is_mutated else content,),
        metadata=_odd_metadata(choose) if choose.random() < 0.3 else (),
    )


def _add_entry(entries: Any, kind: Any, choose: random.Random) -> None:
    """An entry of a map of settings or parameters, its value in any of its fields."""
    keys = (
        "config",
        "file:1/model.py",
        "log_file",
        "log_verbose_level",
        "trace_file",
        "trace_level",
        "unload_dependents",
    )
    entry = entries[choose.choice((*keys, *KEYS))]
    field = choose.choice(kind.fields)
    if field.name == "value":  # of a trace setting: a list
        entry.value.append(choose.choice(("TIMESTAMPS", "/dev/shm/x", "1")))
    elif field.type == field.TYPE_BOOL:
        setattr(entry, field.name, True)
    elif field.type in (field.TYPE_INT64, field.TYPE_UINT32):
        setattr(entry, field.name, choose.choice((0, 1, 2**31)))
    else:
        text = choose.choice(("{}", '{"backend": "python"}', "/dev/shm/x", ""))
        setattr(entry, field.name, text.encode() if field.type == field.TYPE_BYTES else text)


def _wire(corpus: Corpus, choose: random.Random) -> Wire:
    port: Port = choose.choices(["grpc", "health", "metrics"], [70, 15, 15])[0]
    kinds: list[WireKind] = ["garbage", "half a preface", "frames", "http"]
    kind = choose.choices(kinds, [15, 15, 55, 15] if port == "grpc" else [15, 5, 0, 80])[0]
    return Wire(
        kinds=(f"{port} port: {kind}",),
        port=port,
        content=wire_bytes(kind, choose),
        leaves_open=choose.random() < 0.3,
        resets=choose.random() < 0.3,
    )
