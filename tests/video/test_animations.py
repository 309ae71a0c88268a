"""Animated pictures are videos by their delays."""

import io
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from pictures import animation, encoded, picture, png_chunk
from PIL import Image

from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.stills import png

GENERATED = Path(__file__).parents[2].parent / "shared" / "media" / "aigc"
OVER_WHITE = ScoreWarning("transparency-over-white", "where it is transparent, it is scored over white")
DELAYS_MS = [100, 300, 50, 150, 400]


def on_screen(delays_seconds: list[float], count: int) -> list[int]:
    ends = np.cumsum(delays_seconds)
    return [int(np.searchsorted(ends, (i + 0.5) / count * ends[-1] + 1e-9, side="right")) for i in range(count)]


@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize(("file_format", "codec"), [("GIF", "gif"), ("PNG", "apng"), ("WEBP", "webp"), ("AVIF", "av1")])
def test_an_animation_is_a_video_by_its_delays(file_format: str, codec: str, count: int) -> None:
    content = animation(file_format, DELAYS_MS)
    sampled = sample_frames(content, count)
    chosen = on_screen([delay / 1000 for delay in DELAYS_MS], count)
    assert sampled.timestamps_seconds == pytest.approx([sum(DELAYS_MS[:index]) / 1000 for index in chosen])
    for frame, index in zip(sampled.frames, chosen, strict=True):
        with Image.open(io.BytesIO(content)) as image:
            image.seek(index)
            np.testing.assert_array_equal(frame, np.asarray(image.convert("RGB")))
    info = sampled.info
    assert (info.decoder, info.codec, info.frame_count) == ("pillow", codec, 5)
    assert info.duration_seconds == pytest.approx(1.0)
    assert info.frame_rate_hz == pytest.approx(5.0)
    assert sampled.warnings == ()


@pytest.mark.skipif(not GENERATED.is_dir(), reason="the generated clips are not beside this repository")
def test_generated_gifs_are_those_of_ffmpeg() -> None:
    for path in sorted(GENERATED.glob("*.gif")):
        with av.open(path) as container:
            shown = list(container.decode(video=0))
        delays = [float(frame.duration * frame.time_base) for frame in shown]
        chosen = on_screen(delays, 8)
        sampled = sample_frames(path, 8)
        assert sampled.timestamps_seconds == pytest.approx([shown[index].time for index in chosen]), path
        for frame, index in zip(sampled.frames, chosen, strict=True):
            np.testing.assert_array_equal(frame, shown[index].to_ndarray(format="rgb24"), str(path))
        assert sampled.warnings == (), path


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_a_delay_of_nothing_is_a_tenth_of_a_second(file_format: str) -> None:
    for delay_ms, seconds in ((0, 0.4), (10, 0.4), (20, 0.08)):
        assert sample_frames(animation(file_format, [delay_ms] * 4), 1).info.duration_seconds == pytest.approx(seconds)


def test_a_default_image_outside_of_the_animation_is_hidden() -> None:
    hidden, images = picture(9), [picture(index) for index in range(3)]
    content = encoded(hidden, "PNG", save_all=True, append_images=images, default_image=True, duration=100)
    sampled = sample_frames(content, 3)
    assert sampled.info.frame_count == 3
    for frame, image in zip(sampled.frames, images, strict=True):
        np.testing.assert_array_equal(frame, np.asarray(image))


def test_one_picture_is_a_still_in_any_format() -> None:
    for content in (animation("GIF", [100]), encoded(picture(), "PNG", save_all=True, duration=50)):
        info = sample_frames(content, 2).info
        assert (info.frame_count, info.duration_seconds, info.frame_rate_hz) == (1, 0.0, None)


GIF_PALETTE = bytes([200, 10, 10, 10, 200, 10, 10, 10, 200, 90, 90, 90])
RED, GREEN, BLUE, GREY = (tuple(GIF_PALETTE[3 * i : 3 * i + 3]) for i in range(4))


def gif(*images: tuple[int, int | None, tuple[int, int, int, int], int]) -> bytes:
    """A GIF of 8 x 6 pixels on blue; each picture: disposal, transparent index, box, index of its one colour."""
    content = b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0x81, 2, 0) + GIF_PALETTE
    for disposal, transparent, (left, top, width, height), index in images:
        flags = disposal << 2 | (transparent is not None)
        content += struct.pack("<BBBBHBB", 0x21, 0xF9, 4, flags, 10, transparent or 0, 0)
        content += struct.pack("<BHHHHB", 0x2C, left, top, width, height, 0)
        one = encoded(Image.new("P", (width, height), index), "GIF", optimize=False)
        at = one.index(b"\x2c")
        size_of_palette = 3 << (one[at + 9] & 7) + 1 if one[at + 9] & 0x80 else 0
        content += one[at + 10 + size_of_palette : -1]
    return content + b";"


WHOLE, CORNER = (0, 0, 8, 6), (0, 0, 2, 2)


@pytest.mark.parametrize(
    ("images", "corner", "centre"),
    [
        # The last picture is a dot in the lower right; `corner` and `centre` are what the others left.
        ([(1, None, WHOLE, 0), (1, None, CORNER, 1)], GREEN, RED),
        ([(1, None, WHOLE, 0), (2, None, CORNER, 1)], BLUE, RED),
        ([(1, None, WHOLE, 0), (2, 3, CORNER, 1)], (255, 255, 255), RED),
        ([(1, None, WHOLE, 0), (3, None, CORNER, 1)], RED, RED),
        ([(1, None, WHOLE, 0), (1, 1, CORNER, 1)], RED, RED),
        ([(1, None, CORNER, 1)], GREEN, BLUE),
        ([(1, 3, CORNER, 1)], GREEN, (255, 255, 255)),
    ],
)
def test_pictures_of_a_gif_build_on_each_other(images: list, corner: tuple, centre: tuple) -> None:
    content = gif(*images, (1, None, (7, 5, 1, 1), 3))
    last = sample_frames(content, len(images) + 1).frames[-1]
    assert tuple(last[5, 7]) == GREY
    assert (tuple(last[0, 0]), tuple(last[3, 4])) == (corner, centre)


def test_any_gif_is_drawn_as_ffmpeg_draws_it() -> None:
    generator = random.Random(7)
    for _ in range(60):
        images = []
        for _ in range(generator.randint(2, 6)):
            left, top = generator.randrange(8), generator.randrange(6)
            box = (left, top, generator.randint(1, 8 - left), generator.randint(1, 6 - top))
            transparent = generator.choice([None, 0, 1, 2, 3])
            images.append((generator.randrange(4), transparent, box, generator.randrange(4)))
        content = gif(*images)
        with av.open(io.BytesIO(content)) as container:
            shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        np.testing.assert_array_equal(
            np.stack(sample_frames(content, len(images)).frames), np.stack(shown), str(images)
        )


KEEP, BACKGROUND, PREVIOUS = range(3)
SOURCE, OVER = range(2)
OPAQUE_RED, HALF_BLUE, NOTHING = (200, 0, 0, 255), (0, 0, 200, 128), (0, 0, 0, 0)
RED_ONLY, WHITE = (200, 0, 0), (255, 255, 255)


def apng(*images: tuple[int, int, tuple[int, int, int, int], tuple[int, int, int, int]]) -> bytes:
    """An APNG of 8 x 6 pixels; each picture: disposal, blending, box, its one colour."""
    content = png.SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 8, 6, 0, 0, 0))
    content += png_chunk(b"acTL", struct.pack(">II", len(images), 0))
    for index, (disposal, blending, (left, top, width, height), color) in enumerate(images):
        control = struct.pack(">5I2H2B", 2 * index, width, height, left, top, 1, 10, disposal, blending)
        data = zlib.compress((b"\0" + bytes(color) * width) * height)
        content += png_chunk(b"fcTL", control)
        content += png_chunk(b"fdAT", struct.pack(">I", 2 * index + 1) + data) if index else png_chunk(b"IDAT", data)
    return content + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("images", "corner", "centre"),
    [
        ([(KEEP, SOURCE, WHOLE, OPAQUE_RED), (KEEP, SOURCE, CORNER, HALF_BLUE)], (127, 127, 227), RED_ONLY),
        ([(KEEP, SOURCE, WHOLE, OPAQUE_RED), (KEEP, OVER, CORNER, HALF_BLUE)], (100, 0, 100), RED_ONLY),
        ([(KEEP, SOURCE, WHOLE, OPAQUE_RED), (KEEP, OVER, CORNER, NOTHING)], RED_ONLY, RED_ONLY),
        ([(KEEP, SOURCE, WHOLE, OPAQUE_RED), (KEEP, SOURCE, CORNER, NOTHING)], WHITE, RED_ONLY),
        ([(KEEP, SOURCE, WHOLE, OPAQUE_RED), (BACKGROUND, OVER, CORNER, HALF_BLUE)], WHITE, RED_ONLY),
        ([(KEEP, SOURCE, WHOLE, OPAQUE_RED), (PREVIOUS, OVER, CORNER, HALF_BLUE)], RED_ONLY, RED_ONLY),
        # The first picture has none before it: the canvas is emptied.
        ([(PREVIOUS, OVER, WHOLE, OPAQUE_RED), (KEEP, OVER, CORNER, HALF_BLUE)], (127, 127, 227), WHITE),
    ],
)
def test_pictures_of_an_apng_build_on_each_other(images: list, corner: tuple, centre: tuple) -> None:
    last = sample_frames(apng(*images, (KEEP, SOURCE, (7, 5, 1, 1), OPAQUE_RED)), len(images) + 1).frames[-1]
    for (row, column), expected in {(5, 7): RED_ONLY, (0, 0): corner, (3, 4): centre}.items():
        assert np.abs(last[row, column].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {"disposal": 1, "blend": 0}), ("WEBP", {"lossless": True, "exact": True}), ("AVIF", {"quality": 100})],
)
def test_a_transparent_animation_is_over_white_and_says_so(file_format: str, options: dict) -> None:
    opacities = (255, 128, 0)
    images = [Image.new("RGBA", (32, 32), (200, 0, 100, opacity)) for opacity in opacities]
    content = encoded(images[0], file_format, save_all=True, append_images=images[1:], duration=100, **options)
    sampled = sample_frames(content, 3)
    white = Image.new("RGBA", (32, 32), "white")
    for frame, image in zip(sampled.frames, images, strict=True):
        expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"), np.int16)
        assert np.abs(frame - expected).max() <= (3 if file_format == "AVIF" else 1)
    assert sampled.warnings == (OVER_WHITE,)
    # Of three spans, the middle of one; a picture that is not sampled has no say.
    opaque = encoded(images[0], file_format, save_all=True, append_images=images[::-1], duration=[900, 50, 50, 50])
    assert sample_frames(opaque, 1).warnings == ()


def test_a_gif_that_nothing_covers_is_over_white_and_says_so() -> None:
    sampled = sample_frames(gif((1, 3, CORNER, 1)), 1)
    assert (tuple(sampled.frames[0][0, 0]), tuple(sampled.frames[0][3, 4])) == (GREEN, (255, 255, 255))
    assert sampled.warnings == (OVER_WHITE,)
    covered = sample_frames(gif((1, 3, WHOLE, 0), (1, 3, CORNER, 3)), 2)
    assert tuple(covered.frames[1][0, 0]) == RED
    assert covered.warnings == ()


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("loop", [None, 0, 3])
def test_neither_loops_nor_interlacing_count(loop: int | None, interlace: int) -> None:
    options = {"interlace": interlace} | ({} if loop is None else {"loop": loop})
    sampled, plain = (
        sample_frames(animation("GIF", DELAYS_MS, **options), 8),
        sample_frames(animation("GIF", DELAYS_MS), 8),
    )
    np.testing.assert_array_equal(np.stack(sampled.frames), np.stack(plain.frames))
    assert sampled.info == plain.info


def test_memory_does_not_grow_with_an_animation() -> None:
    def peak(count: int) -> int:
        images = [picture(index, 160, 120) for index in range(count)]
        content = encoded(images[0], "WEBP", save_all=True, append_images=images[1:])
        tracemalloc.start()
        sample_frames(content, 2)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak_bytes

    assert peak(90) < peak(30) + 10 * 160 * 120 * 3


def test_an_animation_that_stands_still_is_told() -> None:
    sampled = sample_frames(animation("GIF", [100] * 9 + [60_000]), 8)
    (warning,) = sampled.warnings
    assert (warning.code, warning.message) == ("few-frames", "the score rests on 1 of its 10 frames")
