"""Opening a video that may come from a stranger: only known formats, no other file, no network, bounded frames."""

import contextlib
import io
import os
import re
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from diffvqa_rt.errors import VideoDecodeError, printable
from diffvqa_rt.video.codecs import STRICT_OPTIONS, decoder_options
from diffvqa_rt.video.pipes import spooled
from diffvqa_rt.video.presentation import Presentation, read_presentation

MAX_FRAME_PIXELS = 8192 * 8192
"""The largest picture that is decoded: 8K video twice over. A few header bytes can ask for far more memory."""

# Files that hold their own frames. Missing on purpose: playlists (hls, dash, concat), session descriptions (sdp)
# and file patterns (image2), which make ffmpeg open whatever they name. Pictures are `stills`' business: those here,
# but JPEG XL, are for streams of several, such as Motion JPEG.
_DEMUXERS = (
    "asf,av1,avi,dv,flv,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,vvc,"
    "yuv4mpegpipe,bmp_pipe,jpeg_pipe,jpegxl_pipe,pbm_pipe,pgm_pipe,png_pipe,ppm_pipe"
)

# From this profile on, a base layer that is compatible with nothing (0) is in Dolby's own colours, IPTPQc2.
_FIRST_SINGLE_LAYER_PROFILE = 5
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/")
# Text of one line with a slash or a suffix: no format's file is as short and holds nothing else.
_PATH_IN_BYTES = re.compile(rb"(?=.*/|.*\.\w{1,5}\Z)[^\0-\x1f\x7f<>]{1,4096}")

# Broken text in the tags of a file must not keep it from being read; from version 19 on, PyAV sees to that itself.
_TAG_OPTIONS: dict[str, Any] = {} if av.__version__ >= "19" else {"metadata_errors": "replace"}


@dataclass(frozen=True, slots=True)
class VideoFile:
    """An open container, its one video stream and what is declared of that; `name` is what messages call it."""

    name: str
    container: InputContainer
    stream: VideoStream
    presentation: Presentation

    def packets(self) -> "Iterator[Packet[VideoStream]]":
        """The stream's packets from here on; a file that breaks off ends where it breaks off."""
        is_read = False
        while not is_read:
            is_read = True
            # Closed, since PyAV leaks what belongs to a demuxing that is merely left (some 150 bytes each time).
            demuxing = cast("Generator[Packet[VideoStream]]", self.container.demux(self.stream))
            try:
                with contextlib.closing(demuxing) as packets:
                    for packet in packets:
                        # An empty packet is a repeated frame in AVI, and the order to flush to the decoder.
                        if packet.size:
                            is_read = False
                            yield packet
                    return
            except av.FFmpegError:
                return
            except IndexError:
                # PyAV does not know of a stream that begins later; it goes on from there, or is at the end.
                continue


class OpenFile(os.PathLike[str]):
    """A file that is open already, and what results and messages are to call it; `open_source` reads all of it.

    A path for whoever asks only for the name.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self.file = file

    def __fspath__(self) -> str:
        return self.name


@contextmanager
def open_source(source: str | os.PathLike[Any] | bytes) -> Iterator[tuple[str, BinaryIO]]:
    """The name and the seekable bytes of a video given as a path or as its content.

    Raises:
        VideoDecodeError: the path cannot be read, there are no bytes, or a pipe is beyond `PIPE_LIMITS`.
    """
    if isinstance(source, bytes):
        name = "<bytes>"
        if not source:
            raise VideoDecodeError(f"{name} is empty (0 bytes); give an encoded video or image")
        if _PATH_IN_BYTES.fullmatch(source):
            raise VideoDecodeError(
                f"{name} is the text {source!r}, which looks like a path; bytes are an encoded video's content, and a "
                "path is a str (os.fsdecode makes one)"
            )
        with io.BytesIO(source) as file:
            yield name, file
        return
    path = os.fspath(source)
    name = os.fsdecode(path)
    try:
        with contextlib.ExitStack() as stack:
            opened = source.file if isinstance(source, OpenFile) else stack.enter_context(_opened(path))
            anonymous = stack.enter_context(_seekable(name, opened))
            if os.fstat(anonymous.fileno()).st_size == 0:
                raise VideoDecodeError(f"{name} is empty (0 bytes); give a video or image file")
            yield name, anonymous
    except OSError as error:
        if url := _URL.match(name):
            is_local = url["scheme"].lower() == "file"
            advice = "leave out 'file://'" if is_local else "download it"
            raise VideoDecodeError(
                f"{name} cannot be read, since only local files are; {advice} and give the path of a local video or "
                "image file"
            ) from error
        reason = error.strerror or error
        raise VideoDecodeError(
            f"{name} cannot be read ({reason}); give the path of a local video or image file"
        ) from error


def _opened(path: str | bytes) -> BinaryIO:
    try:
        return open(path, "rb")
    except ValueError as error:  # NUL, or surrogates that stand for no byte
        raise VideoDecodeError(
            f"{printable(os.fsdecode(path))} is a name that no file can have ({error}); "
            "give the path of a local video or image file"
        ) from error


def _seekable(name: str, file: BinaryIO) -> BinaryIO:
    """The same bytes without a name, on disk if they came through a pipe.

    Without a name, since ffmpeg acts on a name's extension and on patterns such as `%d` in it.
    """
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return open(file.fileno(), "rb", closefd=False)
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise OSError("neither a file nor a pipe")
    return spooled(name, file)


@contextmanager
def open_video(name: str, file: BinaryIO, *, threads: int = 1) -> Iterator[VideoFile]:
    """The video in `file`, read from its start.

    Args:
        name: what messages call it.
        file: the video.
        threads: of the decoder. With several, what a damaged video decodes to, and what is reported as damaged, differs
            from run to run; so then the decoder gives up at every error that it knows.

    Raises:
        VideoDecodeError: not in a known format, no video stream, or no decoder for it.
    """
    file.seek(0)
    limits = {"max_pixels": str(MAX_FRAME_PIXELS)}
    try:
        container = av.open(
            file,
            mode="r",
            options=limits,
            container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": ""},
            **_TAG_OPTIONS,
        )
    except av.FFmpegError as error:
        raise VideoDecodeError(
            f"{name} is not a video or image that can be read (ffmpeg: {error.strerror}); "
            "check that it is complete and not a playlist"
        ) from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise VideoDecodeError(f"{name} has no video stream; give a video or an image")
        context = stream.codec_context
        if context is None:
            raise VideoDecodeError(f"{name} is in a codec that has no decoder here; convert it to H.264")
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        context.options = limits | (decoder_options(context.codec) if threads == 1 else STRICT_OPTIONS)
        context.thread_count = threads
        if threads > 1:
            context.thread_type = "AUTO"  # frames where the decoder can, else parts of them
        presentation = read_presentation(stream)
        if presentation.dolby_vision is not None:
            profile, compatibility = presentation.dolby_vision
            if not compatibility and profile >= _FIRST_SINGLE_LAYER_PROFILE:
                raise VideoDecodeError(
                    f"{name} is Dolby Vision of profile {profile}, whose colours mean nothing without its metadata, "
                    "which are not applied; convert it to HDR10 or SDR"
                )
        yield VideoFile(name, container, stream, presentation)
