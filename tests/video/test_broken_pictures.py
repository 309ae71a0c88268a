"""Pictures that break off, are damaged or ask for too much: refused or told, whatever the process has set."""

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from pictures import animation, distance, encoded, picture, png_chunk
from PIL import Image, ImageFile, PngImagePlugin

from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.video import sample_frames


@contextlib.contextmanager
def lenient_process() -> Iterator[None]:
    """A process that lets Pillow show broken pictures, and that makes errors of warnings."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
            assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


ALL_FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"]


@pytest.mark.parametrize("file_format", [*ALL_FORMATS, "tiff_lzw", "tiff jpeg"])
@pytest.mark.parametrize("is_lenient", [False, True])
def test_a_picture_that_breaks_off_is_refused(
    file_format: str, is_lenient: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    name, _, compression = file_format.replace("tiff_lzw", "tiff tiff_lzw").partition(" ")
    whole = encoded(picture(3, 160, 120), name.upper(), **({"compression": compression} if compression else {}))
    for share in (0.1, 0.55, 0.7, 0.97):
        with (
            lenient_process() if is_lenient else contextlib.nullcontext(),
            pytest.raises(VideoDecodeError, match=r"<bytes> is an? .*that (breaks off|does not decode)") as caught,
        ):
            sample_frames(whole[: int(len(whole) * share)], 1)
        assert "\n" not in str(caught.value)
    # libtiff writes to the standard error by itself; the decoder's process has none.
    assert name == "tiff" or capfd.readouterr() == ("", "")


def test_a_picture_that_lacks_its_end_mark_alone_is_whole() -> None:
    jpeg, gif_ = encoded(picture(), "JPEG"), encoded(picture().quantize(16), "GIF")
    for content, codes in ((jpeg, []), (gif_, ["broken-off"])):
        whole = sample_frames(content, 1)
        cut = sample_frames(content[: -2 if content is jpeg else -1], 1)
        assert distance(cut, whole.frames[0]) == 0
        assert [warning.code for warning in cut.warnings] == codes
    # Of a progressive one, passes may be missing.
    with pytest.raises(VideoDecodeError, match="breaks off"):
        sample_frames(encoded(picture(), "JPEG", progressive=True)[:-2], 1)


@pytest.mark.parametrize("file_format", ["GIF", "PNG"])
def test_an_animation_that_breaks_off_gives_its_whole_pictures(file_format: str) -> None:
    whole = animation(file_format, [100] * 8)
    expected = sample_frames(whole, 8)
    cut = sample_frames(whole[: int(len(whole) * 0.55)], 2)
    assert 2 <= cut.info.frame_count < 8
    assert cut.info.corrupt_frames == 1
    assert [warning.code for warning in cut.warnings] == ["broken-off"]
    np.testing.assert_array_equal(cut.frames[1], expected.frames[round(cut.timestamps_seconds[1] * 10)])


def test_damage_within_a_jpeg_is_told() -> None:
    whole = encoded(picture(3, 320, 240), "JPEG", quality=90)
    damaged = whole[: len(whole) // 2] + whole[len(whole) // 2 + 200 :]
    sampled = sample_frames(damaged, 1)
    assert sampled.info.corrupt_frames == 1
    assert [warning.code for warning in sampled.warnings] == ["damaged-picture"]
    assert sample_frames(whole, 1).warnings == ()


def test_a_wrong_checksum_of_a_png_is_told() -> None:
    damaged = bytearray(encoded(picture(), "PNG"))
    damaged[damaged.index(b"IDAT") + 40] ^= 1
    with pytest.raises(VideoDecodeError, match="is a PNG picture whose IDAT data is damaged"):
        sample_frames(bytes(damaged), 1)


def huge_png(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def huge(file_format: str) -> bytes:
    """A small file whose header declares 9000 x 9000 pixels."""
    content = bytearray(encoded(picture(), file_format))
    declared = {
        "BMP": (18, "<ii"),
        "GIF": (6, "<HH"),
        "WEBP": (26, "<HH"),
        "JPEG": (content.index(b"\xff\xc0") + 5 if file_format == "JPEG" else 0, ">HH"),
        "JPEG2000": (content.index(b"ihdr") + 4 if file_format == "JPEG2000" else 0, ">II"),
    }
    if file_format == "PPM":
        return bytes(content).replace(b"40 30", b"9000 9000", 1)
    offset, layout = declared[file_format]
    struct.pack_into(layout, content, offset, 9000, 9000)
    return bytes(content)


@pytest.mark.parametrize("is_lenient", [False, True])
def test_a_picture_that_declares_too_many_pixels_is_refused(
    is_lenient: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    contents = [huge_png(9000), huge_png(14000), huge_png(60000)]
    contents += [huge(file_format) for file_format in ("BMP", "GIF", "WEBP", "JPEG", "JPEG2000")]
    for content in contents:
        with (
            lenient_process() if is_lenient else contextlib.nullcontext(),
            pytest.raises(VideoDecodeError, match="at most 67,108,864 pixels a picture"),
        ):
            sample_frames(content, 1)
    assert capfd.readouterr() == ("", "")


def test_pillows_own_limits_become_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("key", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(VideoDecodeError, match="is a PNG picture that does not decode .*MAX_TEXT_CHUNK"):
        sample_frames(encoded(picture(), "PNG", pnginfo=text), 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(VideoDecodeError, match="is a PNG picture with more pixels than this process allows"):
        sample_frames(encoded(picture(), "PNG"), 1)


@pytest.mark.parametrize("file_format", ALL_FORMATS)
def test_any_bytes_end_in_a_score_or_a_sentence(file_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 5
    contents = [encoded(picture(), file_format, **({} if file_format in ("PPM", "JPEG2000") else {"exif": exif}))]
    if file_format in ("GIF", "PNG", "WEBP"):
        contents.append(animation(file_format, [100, 200, 50]))
    for content in contents:
        for _ in range(60):
            hostile = bytearray(content)
            for position in random.integers(2, min(len(content), random.choice([64, 400, 10**6])), 3):
                hostile[position] = random.integers(256)
            with contextlib.suppress(VideoDecodeError):
                assert sample_frames(bytes(hostile), 2).frames
    assert capfd.readouterr() == ("", "")
