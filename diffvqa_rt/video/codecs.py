"""What is known of codecs and of libavcodec's decoders for them that no API tells: where they start, what they hide."""

import zlib

from av.codec import Codec
from av.packet import Packet
from av.video.stream import VideoStream

# A keyframe is all that these need to start. Others keep colours, palettes or code books from before it (SMC, Cinepak,
# QuickTime Animation, ...), and are decoded from the beginning.
_STARTS_AT_KEYFRAME = {
    *("h264", "hevc", "vvc", "evc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "h261", "h263", "h263p"),
    *("flv1", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "wmv3", "vc1", "theora", "vp3", "vp6", "vp6f"),
    *("vp6a", "rv10", "rv20", "rv30", "rv40", "svq1", "svq3", "ffv1", "snow", "dirac", "cavs"),
}

# These decoders give no picture, or an error, where the picture before is missing; the others make one up, grey,
# without a word.
_NEEDS_NO_KEY_CHECK = {"h264", "hevc", "vvc", "evc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video"}

# These decoders call no frame a keyframe: only the container tells where they can begin.
_TELLS_NO_KEYFRAME = {"smc", "rpza", "msvideo1", "qtrle", "msrle", "flashsv", "flashsv2"}

# These mark damaged frames and conceal the damage well; told to give up at every error, they would refuse streams that
# are sound. The others refuse a damaged picture if they are told to, and give out those that refer to it as if whole.
_MARKS_DAMAGE = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}


_FFV1_FOOTER_BYTES = 8
# Zero, and the other number that version 4 may begin with, as zlib writes them: bits reversed and inverted.
_FFV1_FIRST = (0xFFFFFFFF, int(f"{0x79408C7A:032b}"[::-1], 2) ^ 0xFFFFFFFF)
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def can_start_at_keyframes(codec: Codec) -> bool:
    return codec.intra_only or codec.canonical_name in _STARTS_AT_KEYFRAME


def makes_up_references(codec: Codec) -> bool:
    """True where the decoder gives frames, and no error, where it was not started at a keyframe."""
    return not codec.intra_only and codec.canonical_name not in _NEEDS_NO_KEY_CHECK


def tells_keyframes(codec: Codec) -> bool:
    """True where the decoder marks keyframes in what it gives."""
    return codec.canonical_name not in _TELLS_NO_KEYFRAME


STRICT_OPTIONS = {"err_detect": "crccheck+bitstream+buffer+explode"}
"""Options that make a decoder give up at every error that it knows; it may refuse a sound stream too."""


def decoder_options(codec: Codec) -> dict[str, str]:
    """Options that make the decoder report damage: as an error, unless it marks damaged frames by itself."""
    return {} if codec.canonical_name in _MARKS_DAMAGE else {"err_detect": "crccheck+explode"}


def hides_consequences(codec: Codec) -> bool:
    """True where frames after a damaged one are to be distrusted until the next keyframe."""
    return not codec.intra_only and codec.canonical_name not in _MARKS_DAMAGE


def is_intact(codec: Codec, packet: "Packet[VideoStream]") -> bool:
    """False where a packet's own checksums say that it is damaged, and its decoder would only conceal that.

    FFV1's slices end in their size (3 bytes), a status and a checksum (RFC 9043, section 4.9), if they have checksums;
    then the sizes lead from the packet's end exactly to its start.
    """
    if codec.canonical_name != "ffv1":
        return True
    data = bytes(packet)
    slices, end = [], len(data)
    while end >= _FFV1_FOOTER_BYTES:
        footer = end - _FFV1_FOOTER_BYTES
        start = footer - int.from_bytes(data[footer : footer + 3], "big")
        if start < 0:
            return True
        slices.append(data[start:end])
        end = start
    # Over all of a slice such a checksum comes back to where it began. zlib's takes bits in the other order.
    reversed_slices = [part.translate(_REVERSED_BITS) for part in slices]
    return end > 0 or any(all(zlib.crc32(part, first) == first for part in reversed_slices) for first in _FFV1_FIRST)


def is_header_packet(codec_name: str, packet: "Packet[VideoStream]") -> bool:
    """True where a packet holds headers and no frame: those of a second Theora stream in one Ogg file."""
    return codec_name == "theora" and packet.size > 0 and bool(memoryview(packet)[0] & 0x80)
