"""Ways to break a file, each a function of its bytes and of a random generator."""

import random
import struct
import zlib
from collections.abc import Callable, Mapping

Mutation = Callable[[bytearray, random.Random], bytearray]

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# Within so many bytes lie the headers, where a change does most.
_HEADER_BYTES = 512


def flip_bits(data: bytearray, generator: random.Random) -> bytearray:
    for _ in range(2 ** generator.randrange(8)):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return data


def flip_bits_of_the_header(data: bytearray, generator: random.Random) -> bytearray:
    for _ in range(2 ** generator.randrange(4)):
        data[generator.randrange(min(len(data), _HEADER_BYTES))] ^= 1 << generator.randrange(8)
    return data


def overwrite(data: bytearray, generator: random.Random) -> bytearray:
    """A run of bytes becomes noise, zeros or ones."""
    at, length = generator.randrange(len(data)), 2 ** generator.randrange(11)
    length = min(length, len(data) - at)
    data[at : at + length] = generator.choice([generator.randbytes(length), bytes(length), b"\xff" * length])
    return data


def truncate(data: bytearray, generator: random.Random) -> bytearray:
    return data[: generator.randrange(1, len(data))]


def cut_out(data: bytearray, generator: random.Random) -> bytearray:
    at = generator.randrange(len(data))
    del data[at : at + 2 ** generator.randrange(12)]
    return data


def repeat(data: bytearray, generator: random.Random) -> bytearray:
    at = generator.randrange(len(data))
    data[at:at] = data[at : at + 2 ** generator.randrange(12)] * generator.randrange(1, 4)
    return data


def move(data: bytearray, generator: random.Random) -> bytearray:
    start = generator.randrange(len(data))
    stop = min(start + 2 ** generator.randrange(12), len(data))
    piece = data[start:stop]
    del data[start:stop]
    at = generator.randrange(len(data) + 1)
    data[at:at] = piece
    return data


def put_a_number(data: bytearray, generator: random.Random) -> bytearray:
    """A number at a limit, in one of the widths and orders that formats use, most often in the header."""
    width, order = generator.choice([1, 2, 4, 4, 8]), generator.choice(["big", "little"])
    most = min(len(data), _HEADER_BYTES) if generator.random() < 0.7 else len(data)
    at = generator.randrange(most)
    number = generator.choice([*_NUMBERS, len(data), len(data) - at, generator.getrandbits(32)])
    data[at : at + width] = (number % 256**width).to_bytes(width, order)
    return data


def _boxes(data: bytes | bytearray, start: int = 0, stop: int | None = None, depth: int = 0) -> list[tuple[int, int]]:
    """Where the boxes of an ISO file begin and end, with those inside of them."""
    stop, found, at = len(data) if stop is None else stop, [], start
    while at + 8 <= stop:
        size = struct.unpack_from(">I", data, at)[0]
        if size < 8 or at + size > stop or not all(32 <= byte < 127 for byte in data[at + 4 : at + 8]):
            break
        found.append((at, at + size))
        if depth < 8:
            for header in (8, 12, 16):
                inside = _boxes(data, at + header, at + size, depth + 1)
                if inside:
                    found += inside
                    break
        at += size
    return found


def _pieces(data: bytearray) -> tuple[list[tuple[int, int]], Callable[[int], int], str]:
    """The boxes, chunks or segments of a file: where each begins and ends, where its size stands, and its order."""
    if data[4:8] in (b"ftyp", b"styp", b"moov", b"free", b"wide", b"mdat"):
        return _boxes(data), lambda at: at, ">I"
    if data[:4] == b"\x89PNG":
        return _walk(data, 8, lambda at: struct.unpack_from(">I", data, at)[0] + 12), lambda at: at, ">I"
    if data[:4] == b"RIFF":
        return _walk(data, 12, lambda at: struct.unpack_from("<I", data, at + 4)[0] + 8), lambda at: at + 4, "<I"
    if data[:2] == b"\xff\xd8":
        return _walk(data, 2, lambda at: struct.unpack_from(">H", data, at + 2)[0] + 2), lambda at: at + 2, ">H"
    return [], lambda at: at, ">I"


def _walk(data: bytearray, at: int, size_at: Callable[[int], int]) -> list[tuple[int, int]]:
    found = []
    while at + 12 <= len(data) and 0 < size_at(at) <= len(data) - at:
        found.append((at, at + size_at(at)))
        at += size_at(at)
    return found


def resize_a_piece(data: bytearray, generator: random.Random) -> bytearray:
    """A box, chunk or segment says another size than it has."""
    pieces, place, order = _pieces(data)
    if not pieces:
        return put_a_number(data, generator)
    start, stop = generator.choice(pieces)
    width = struct.calcsize(order)
    size = stop - start
    number = generator.choice([*_NUMBERS, size - 1, size + 1, size // 2, 2 * size, len(data) - start])
    struct.pack_into(order, data, place(start), number % 256**width)
    return data


def swap_pieces(data: bytearray, generator: random.Random) -> bytearray:
    pieces, _, _ = _pieces(data)
    apart = [
        (one, other) for one in pieces for other in generator.sample(pieces, min(4, len(pieces))) if one[1] <= other[0]
    ]
    if not apart:
        return move(data, generator)
    (a, b), (c, d) = generator.choice(apart)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def drop_or_repeat_a_piece(data: bytearray, generator: random.Random) -> bytearray:
    pieces, _, _ = _pieces(data)
    if not pieces:
        return cut_out(data, generator)
    start, stop = generator.choice(pieces)
    return data[:start] + data[start:stop] * generator.choice([0, 0, 2, 3]) + data[stop:]


def change_a_piece(data: bytearray, generator: random.Random) -> bytearray:
    """What is in a box or chunk changes, and a PNG's checksum with it, so that it is read."""
    pieces, _, _ = _pieces(data)
    if not pieces:
        return flip_bits(data, generator)
    start, stop = generator.choice(pieces)
    for _ in range(2 ** generator.randrange(4)):
        at = generator.randrange(min(start + 4, stop - 1), stop)
        data[at] = generator.choice([generator.randrange(256), 0, 255, data[at] ^ 1 << generator.randrange(8)])
    if data[:4] == b"\x89PNG" and stop - start >= 12:
        struct.pack_into(">I", data, stop - 4, zlib.crc32(data[start + 4 : stop - 4]))
    return data


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits_of_the_header,
    overwrite,
    truncate,
    cut_out,
    repeat,
    move,
    put_a_number,
    resize_a_piece,
    swap_pieces,
    drop_or_repeat_a_piece,
    change_a_piece,
)


def mutated(files: Mapping[str, bytes], seed: int, index: int) -> tuple[str, bytes]:
    """The `index`-th broken file of a seed: what was done to which file, and its bytes."""
    generator = random.Random(f"{seed} {index}")
    name = generator.choice(sorted(files))
    data, done = bytearray(files[name]), [name]
    if generator.random() < 0.08:
        other = generator.choice(sorted(files))
        data = data[: generator.randrange(len(data))] + bytearray(files[other])[generator.randrange(64) :]
        done.append(f"spliced with {other}")
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        mutation = generator.choice(MUTATIONS)
        data = mutation(data, generator) or bytearray(b"\0")
        done.append(mutation.__name__)
    return ", ".join(done), bytes(data)
