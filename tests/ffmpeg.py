"""What the tests' inputs need that PyAV's encoders do not give: imageio-ffmpeg's ffmpeg, and bytes moved by hand."""

import struct
import subprocess
from pathlib import Path

import av
import imageio_ffmpeg

SCENE = (
    "testsrc2=size=160x120:rate=25:duration=2.4,"
    "gblur=sigma=6:enable='between(t,0.8,1.6)',pixelize=w=8:h=8:enable='gt(t,1.6)',format=yuv420p"
)
"""60 frames, sharp, then blurred, then in blocks: each tells its third of the video from the others."""

LOSSLESS = ("-c:v", "libx264", "-qp", "0", "-preset", "ultrafast")


def ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-nostdin"]
    subprocess.run([*command, *map(str, arguments)], check=True)


def insert_box(file: Path, names: tuple[str, ...], box: bytes) -> bytes:
    """The MP4 file with `box` at the end of the innermost of the nested boxes `names`; its `moov` comes last."""
    data = bytearray(file.read_bytes())
    at, boxes = 0, []
    for name in names:
        while data[at + 4 : at + 8] != name.encode():
            at += struct.unpack(">I", data[at : at + 4])[0]
        boxes.append((at, struct.unpack(">I", data[at : at + 4])[0]))
        at += 16 if name == "stsd" else 8
    for start, size in boxes:
        data[start : start + 4] = struct.pack(">I", size + len(box))
    start, size = boxes[-1]
    data[start + size : start + size] = box
    return bytes(data)


SAMPLE_ENTRY = ("moov", "trak", "mdia", "minf", "stbl", "stsd")


def with_all_packets_flagged(source: Path, target: Path, skipped: int = 0) -> Path:
    """The same packets, but for the first `skipped`, in `target`, each said to be a keyframe."""
    with av.open(source) as read, av.open(target, "w") as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        for packet in [packet for packet in read.demux(stream) if packet.size][skipped:]:
            packet.is_keyframe, packet.stream = True, copy
            written.mux(packet)
    return target


def flv_tags(file: Path) -> list[tuple[int, int, bytes]]:
    """Kind, time in ms and body of each tag."""
    data, at, tags = file.read_bytes(), 13, []
    while at + 15 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        tags.append((data[at], int.from_bytes(data[at + 4 : at + 7], "big"), data[at + 11 : at + 11 + size]))
        at += 15 + size
    return tags


def flv_from_tags(header: bytes, tags: list[tuple[int, int, bytes]]) -> bytes:
    file = header[:13]
    for kind, milliseconds, body in tags:
        tag = bytes([kind]) + len(body).to_bytes(3, "big") + milliseconds.to_bytes(3, "big") + bytes(4) + body
        file += tag + len(tag).to_bytes(4, "big")
    return file
