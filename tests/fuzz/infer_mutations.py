"""What strangers may make of an inference request: one mutation a function."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from fuzz.inference import MODELS, TYPES, Corpus

# More than the limit of a server that tests start (`served.MAX_REQUEST_MIB`).
BIG_VIDEO_BYTES = 3 << 20
WHOLE_NUMBERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 4, 5, 2**16, 2**16 + 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1)
ODD_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "../../etc/passwd",
    "%s%n%x",
    "é\u202e\U0001f4a9",
    "\r\nx: y",
    "{}",
    "0",
    "a" * 255,
    "a" * 70_000,
)
ODD_PROMPTS = (
    b"",
    b" \r\n\t",
    b"a c\xffat",
    b"\xed\xa0\x80",  # half a surrogate pair
    b"\xf0\x9f\x92",  # cut inside a character
    bytes(range(32)),
    b"[CLS] [SEP] [PAD]",
    "e\u0301\u202e\u200b\U0001f4a9".encode() * 1000,
    b"word " * 4000,
    bytes(1 << 20),
    b"a" * (1 << 20),
)
KEYS = (
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "priority",
    "timeout",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "binary_data",
    "binary_data_size",
    "binary_data_output",
    "classification",
    "headers",
    "triton_enable_empty_final_response",
    "triton_final_response",
    "triton_other",
    "other",
    "",
)


def _input(request: pb.ModelInferRequest, choose: random.Random) -> tuple[int, Any]:
    """An input and its place; a new one where all are gone."""
    if not request.inputs:
        request.inputs.add(name="video", datatype="UINT8", shape=[1])
    index = choose.randrange(len(request.inputs))
    return index, request.inputs[index]


def _shape(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    _, tensor = _input(request, choose)
    shape = list(tensor.shape) or [1]
    axis = choose.randrange(len(shape))
    new = choose.choice(
        [
            [*shape[:axis], choose.choice((*WHOLE_NUMBERS, shape[axis] + 1)), *shape[axis + 1 :]],
            [*shape, 1],
            [1, *shape],
            shape[1:],
            [],
            [0] * len(shape),
            [-1] * len(shape),
            # Products that are 0, or the right one, modulo 2^64.
            [*[2**32] * 2, *shape[2:]],
            [shape[0] + 2**62, *[4] * (len(shape) - 1)],
            shape[::-1],
            [choose.choice(WHOLE_NUMBERS) for _ in range(choose.randrange(40))],
        ]
    )
    tensor.shape[:] = [max(min(size, 2**63 - 1), -(2**63)) for size in new]


def _datatype(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    tensor = _input(request, choose)[1]
    tensor.datatype = choose.choice([*TYPES, "BF16", "BYTES", "FP8", "uint8", "TYPE_FP32", *ODD_TEXTS])


def _inputs(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    """Missing, repeated, extra, renamed; with the raw contents and without."""
    index, tensor = _input(request, choose)
    raw = request.raw_input_contents
    what = choose.choice(["missing", "none", "repeated", "extra", "renamed", "other model"])
    has_raw = choose.random() < 0.5 and index < len(raw)
    if what == "missing":
        del request.inputs[index]
        if has_raw:
            del raw[index]
    elif what == "none":
        del request.inputs[:]
    elif what == "renamed":
        others = [tensor.name.upper(), tensor.name + "\0", *(other.name for other in request.inputs), *ODD_TEXTS]
        tensor.name = choose.choice(others)
    elif what == "other model":
        request.model_name = choose.choice(MODELS)
    else:
        request.inputs.add().CopyFrom(tensor)
        if what == "extra":
            request.inputs[-1].name = choose.choice([*KEYS, "z0", "frames"])
        if has_raw:
            raw.append(raw[index])


def _order(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    places = list(range(len(request.inputs)))
    choose.shuffle(places)
    inputs, raw = list(request.inputs), list(request.raw_input_contents)
    which = choose.choice(["inputs", "raw", "both"])
    if which != "raw":
        del request.inputs[:]
        request.inputs.extend(inputs[place] for place in places)
    if which != "inputs":
        request.raw_input_contents[:] = [raw[place] for place in places if place < len(raw)]


def _raw(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    raw = request.raw_input_contents
    if not raw:
        raw.append(b"")
    index = choose.randrange(len(raw))
    content = raw[index]
    what = choose.choice(["cut", "longer", "empty", "dropped", "one more", "noise"])
    if what == "dropped":
        del raw[index]
    elif what == "one more":
        raw.append(choose.randbytes(choose.randrange(9)))
    else:
        raw[index] = {
            "cut": content[: choose.randrange(len(content) + 1)],
            "longer": content + choose.randbytes(choose.choice((1, 3, 4, 1000))),
            "empty": b"",
            "noise": choose.randbytes(len(content)),
        }[what]


def _contents(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    """Values in `contents`, in the right field or another, in the place of raw ones or beside them."""
    fields = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "UINT32": "uint"}
    fields |= dict.fromkeys(("UINT8", "UINT16"), "uint") | dict.fromkeys(("INT8", "INT16", "INT32"), "int")
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=False):
        dtype = TYPES.get(tensor.datatype)
        if dtype is None or len(raw) % np.dtype(dtype).itemsize or choose.random() < 0.1:
            continue
        field = fields.get(tensor.datatype, "bytes")
        if choose.random() < 0.1:
            field = choose.choice([*fields.values(), "bytes"])
        values = np.frombuffer(raw, dtype)[: choose.choice((None, None, -1, 0, 1))]
        is_float, is_bool = field.startswith("fp"), field == "bool"
        if field == "bytes":
            tensor.contents.bytes_contents.extend([raw, b""])
            continue
        whole = values if is_float else [abs(int(v)) % 2**31 for v in np.nan_to_num(values)]
        getattr(tensor.contents, f"{field}_contents").extend([bool(v) if is_bool else v for v in whole])
    if choose.random() < 0.7:
        del request.raw_input_contents[:]


def _video_size(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    content = choose.choice([b"", b"\0", corpus.videos[0][: choose.randrange(200)], bytes(BIG_VIDEO_BYTES)])
    for index, tensor in enumerate(request.inputs):
        if tensor.name == "video" and index < len(request.raw_input_contents):
            tensor.shape[:] = [len(content)]
            request.raw_input_contents[index] = content


def _prompt(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    """One that is no text, blank or too long; one more where the model takes none; or none where it takes one."""
    raw = request.raw_input_contents
    place = next((index for index, tensor in enumerate(request.inputs) if tensor.name == "prompt"), None)
    if place is not None and place < len(raw):
        del request.inputs[place], raw[place]
        if choose.random() < 0.2:
            return
    content = choose.choice((*ODD_PROMPTS, choose.randbytes(choose.choice((1, 20, 3000)))))
    request.inputs.add(name="prompt", datatype="UINT8", shape=[len(content)])
    raw.append(content)


def _numbers(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    for index, tensor in enumerate(request.inputs):
        if tensor.datatype in ("INT32", "INT64") and index < len(request.raw_input_contents):
            count = choose.choice((1, 1, 1, 2))
            info = np.iinfo(TYPES[tensor.datatype])
            values = [min(max(choose.choice(WHOLE_NUMBERS), info.min), info.max) for _ in range(count)]
            tensor.shape[:] = [count]
            request.raw_input_contents[index] = np.array(values, TYPES[tensor.datatype]).tobytes()


def _floats(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    """NaN, infinities and the largest numbers, at one place or at all."""
    for index, tensor in enumerate(request.inputs):
        is_chosen = tensor.datatype in ("FP32", "FP64") and choose.random() < 0.5
        if is_chosen and index < len(request.raw_input_contents):
            dtype = TYPES[tensor.datatype]
            raw = request.raw_input_contents[index]
            values = np.frombuffer(raw, dtype, count=len(raw) // np.dtype(dtype).itemsize).copy()
            if len(values):
                place = choose.choice((slice(None), choose.randrange(len(values))))
                values[place] = choose.choice((np.nan, np.inf, -np.inf, np.finfo(dtype).max, -1e30, 1e-40, -0.0))
            request.raw_input_contents[index] = values.tobytes()


def _outputs(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    names = [*corpus.outputs.get(request.model_name, ()), "z0", "preprocess_marks", *ODD_TEXTS]
    for _ in range(choose.choice((1, 1, 2, 30))):
        output = request.outputs.add(name=choose.choice(names[: choose.choice((2, None))]))
        if choose.random() < 0.5:
            _set_parameter(output.parameters, choose)


def _model(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    if choose.random() < 0.5:
        request.model_name = choose.choice(["DIFFVQA", "diffvqa ", "unet_controller", "dali", *ODD_TEXTS])
    else:
        request.model_version = choose.choice(["1", "2", "-1", "01", "1.0", "9" * 30, *ODD_TEXTS])


def _id(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    request.id = choose.choice([*ODD_TEXTS, "".join(map(chr, choose.choices(range(1, 0xD7FF), k=100)))])


def _parameters(request: pb.ModelInferRequest, corpus: Corpus, choose: random.Random) -> None:
    holders = [request, *request.inputs, *request.outputs]
    for _ in range(choose.choice((1, 1, 2, 3, 20))):
        _set_parameter(choose.choice(holders).parameters, choose)


def _set_parameter(parameters: Any, choose: random.Random) -> None:
    parameter = parameters[choose.choice((*KEYS, *ODD_TEXTS))]
    kind = choose.choice(["bool", "int64", "string", "double", "uint64", "none"])
    if kind == "string":
        parameter.string_param = choose.choice(ODD_TEXTS)
    elif kind == "double":
        parameter.double_param = choose.choice((0.0, -1.5, float("nan"), float("inf"), 1e300))
    elif kind != "none":
        number = choose.choice(WHOLE_NUMBERS)
        value = {"bool": number > 0, "int64": number if -(2**63) <= number < 2**63 else 0, "uint64": abs(number)}[kind]
        setattr(parameter, f"{kind}_param", value)


Mutation = Callable[[pb.ModelInferRequest, Corpus, random.Random], None]
MUTATIONS: dict[str, Mutation] = {
    "shape": _shape,
    "datatype": _datatype,
    "inputs": _inputs,
    "order": _order,
    "raw contents": _raw,
    "typed contents": _contents,
    "size": _video_size,
    "prompt": _prompt,
    "numbers": _numbers,
    "floats": _floats,
    "outputs": _outputs,
    "model": _model,
    "id": _id,
    "parameters": _parameters,
}


def mutated_bytes(message: bytes, choose: random.Random) -> bytes:
    """A serialized message with bits flipped, cut short, or spliced with itself or with noise."""
    changed = bytearray(message or b"\0")
    for _ in range(choose.choice((1, 1, 2, 8))):
        # Most of a message is contents; its structure is at the start.
        at = choose.randrange(min(len(changed), choose.choice((16, 300, len(changed)))))
        what = choose.choice(["flip", "set", "cut", "insert", "repeat", "delete"])
        if what == "flip":
            changed[at] ^= 1 << choose.randrange(8)
        elif what == "set":
            changed[at] = choose.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == "cut" and at:
            del changed[at:]
        elif what == "insert":
            changed[at:at] = choose.randbytes(choose.choice((1, 4, 50)))
        elif what == "repeat":
            changed[at:at] = changed[: choose.randrange(len(changed))][:2000]
        elif what == "delete" and len(changed) > at + 1:
            del changed[at : at + choose.randrange(1, 20)]
        if not changed:
            changed = bytearray(b"\0")
    return bytes(changed)
