"""Pictures: their pixels, orientation and colour; what counts as a frame of a file; animations; broken files."""

import contextlib
import io
import struct
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from clips import make_clip, moving_picture
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from diffvqa_rt.errors import DeviceDecodeError, VideoDecodeError
from diffvqa_rt.video import SampledFrames, sample_frames
from diffvqa_rt.video.plan import plan_decoding

WIDTH, HEIGHT = 40, 30
# Two decoders of one JPEG, and a picture against its lossy copy: enough to tell turned from unturned.
LOSSY_TOLERANCE = 12
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}, "PPM": {}, "JPEG2000": {}}


def picture(index: int = 3, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    return Image.fromarray(moving_picture(index, width, height) // 2 + 40)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def distance(sampled: SampledFrames, expected: Image.Image | NDArray[np.uint8]) -> int:
    return int(np.abs(sampled.frames[0].astype(int) - np.asarray(expected)).max())


@pytest.mark.parametrize(
    ("mode", "file_format", "codec", "pixel_format"),
    [
        ("RGB", "PNG", "png", "rgb24"),
        ("L", "PNG", "png", "gray"),
        ("P", "PNG", "png", "pal8"),
        ("1", "PNG", "png", "monob"),
        ("LA", "PNG", "png", "ya8"),
        ("RGBA", "PNG", "png", "rgba"),
        ("RGB", "BMP", "bmp", "bgr24"),
        ("P", "BMP", "bmp", "pal8"),
        ("P", "GIF", "gif", "bgra"),
        ("RGB", "TIFF", "tiff", "rgb24"),
        ("L", "TIFF", "tiff", "gray"),
        ("RGB", "PPM", "ppm", "rgb24"),
        ("L", "PPM", "pgm", "gray"),
        ("1", "PPM", "pbm", "monob"),
        ("RGB", "JPEG2000", "jpeg2000", "rgb24"),
    ],
)
def test_a_still_is_a_video_of_one_frame(mode: str, file_format: str, codec: str, pixel_format: str) -> None:
    image = picture().convert(mode)
    sampled = sample_frames(encoded(image, file_format), 3)
    info = sampled.info
    assert len(sampled.frames) == 3
    assert distance(sampled, image.convert("RGB")) == 0
    assert sampled.timestamps_seconds == (0.0, 0.0, 0.0)
    assert (info.frame_count, info.duration_seconds, info.frame_rate_hz) == (1, 0.0, None)
    assert (info.decoder, info.codec, info.pixel_format, info.color_range) == ("pillow", codec, pixel_format, "full")
    assert (info.decoded_frames, info.corrupt_frames, sampled.warnings) == (1, 0, ())


@pytest.mark.parametrize(
    ("file_format", "options", "facts"),
    [
        ("JPEG", {"quality": 95}, ("mjpeg", "yuvj420p", "bt470bg", "full")),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, ("mjpeg", "yuvj444p", "bt470bg", "full")),
        ("WEBP", {"quality": 95}, ("webp", "yuv420p", "bt470bg", "limited")),
        ("AVIF", {"quality": 95}, ("av1", "yuv420p", "smpte170m", "full")),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, ("av1", "yuv444p", "smpte170m", "full")),
    ],
)
def test_a_lossy_still_tells_how_it_is_stored(file_format: str, options: dict, facts: tuple) -> None:
    smooth = picture().resize((160, 120), Image.Resampling.BICUBIC)
    sampled = sample_frames(encoded(smooth, file_format, **options), 1)
    info = sampled.info
    assert (info.codec, info.pixel_format, info.color_matrix, info.color_range) == facts
    assert (info.duration_seconds, info.frame_rate_hz, info.bit_depth) == (0.0, None, 8)
    assert np.abs(sampled.frames[0].astype(int) - np.asarray(smooth)).mean() < 4


ORIENTATIONS = {
    1: (0, False),
    2: (0, True),
    3: (180, False),
    4: (180, True),
    5: (270, True),
    6: (90, False),
    7: (90, True),
    8: (270, False),
}


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_each_orientation_is_applied_once(file_format: str) -> None:
    for value, (degrees, is_mirrored) in ORIENTATIONS.items():
        exif = Image.Exif()
        exif[0x0112] = value
        content = encoded(picture(), file_format, exif=exif, **LOSSLESS.get(file_format, {}))
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        sampled = sample_frames(content, 1)
        assert distance(sampled, expected) == 0
        assert (sampled.info.rotation_degrees, sampled.info.is_mirrored) == (degrees, is_mirrored)
        assert (sampled.info.width, sampled.info.height) == expected.size


def test_a_broken_exif_block_is_passed_over() -> None:
    for block in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b""):
        assert distance(sample_frames(encoded(picture(), "PNG", exif=block), 1), picture()) == 0


def test_transparency_is_ignored() -> None:
    pixels = np.dstack([moving_picture(0, 20, 10), np.zeros((10, 20), np.uint8)])
    for file_format in ("PNG", "TIFF"):
        sampled = sample_frames(encoded(Image.fromarray(pixels), file_format), 1)
        np.testing.assert_array_equal(sampled.frames[0], pixels[..., :3])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_grey_of_16_bits_is_scaled(file_format: str) -> None:
    samples = np.linspace(0, 65535, 300).astype(np.uint16).reshape(10, 30)
    sampled = sample_frames(encoded(Image.fromarray(samples), file_format), 1)
    assert distance(sampled, np.rint(samples[..., None] / 257).astype(int)) == 0
    assert sampled.info.bit_depth == 16
    assert sampled.info.pixel_format.startswith("gray16")


def test_samples_of_no_known_scale_are_refused() -> None:
    for dtype in (np.float32, np.int32):
        with pytest.raises(VideoDecodeError, match="is a TIFF picture with .* samples, whose black and white are"):
            sample_frames(encoded(Image.fromarray(np.ones((4, 4), dtype)), "TIFF"), 1)


def rgb_profile(primaries: list[tuple[float, float]], gamma: float = 2.2) -> bytes:
    """An ICC profile of such primaries with a white of D65, adapted to D50 by Bradford's matrix."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d65, d50 = np.array([0.95047, 1, 1.08883]), np.array([0.9642, 1, 0.8249])
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    adapted = np.linalg.inv(bradford) @ np.diag(bradford @ d50 / (bradford @ d65)) @ bradford
    columns = adapted @ (xyz * np.linalg.solve(xyz, d65))

    def fixed(values: NDArray) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    text = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0x\0", b"wtpt": fixed(d50)}
    tags |= {name: fixed(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, body in tags.items():
        table += struct.pack(">4sII", name, offset + len(data), len(body))
        data += body.ljust(-(-len(body) // 4) * 4, b"\0")
    head = struct.pack(
        ">I4sI4s4s4s12s4s", offset + len(data), b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"", b"acsp"
    )
    return (head.ljust(68, b"\0") + fixed(d50)[8:]).ljust(128, b"\0") + table + data


P3 = [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)]


def converted(image: Image.Image, profile: bytes, mode: str = "RGB") -> NDArray[np.uint8]:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    assert made is not None
    return np.asarray(made)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_a_profile_is_applied(file_format: str) -> None:
    profile = rgb_profile(P3)
    content = encoded(picture(), file_format, icc_profile=profile, **LOSSLESS.get(file_format, {}))
    stored = Image.open(io.BytesIO(content)).convert("RGB")
    expected = converted(stored, profile)
    assert np.abs(expected.astype(int) - np.asarray(stored)).max() > 20
    sampled = sample_frames(content, 1)
    assert distance(sampled, expected) == 0
    assert sampled.warnings == ()


def test_a_wide_photograph_looks_as_its_srgb_copy() -> None:
    # A colour of sRGB, written in Display P3, comes back.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    p3 = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile(P3)))
    wide = ImageCms.profileToProfile(picture(), srgb, p3, outputMode="RGB")
    assert wide is not None
    assert distance(sample_frames(encoded(wide, "PNG", icc_profile=p3.tobytes()), 1), picture()) <= 2


def test_an_srgb_profile_moves_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("RGB", "L", "P", "RGBA"):
        image = picture().convert(mode)
        sampled = sample_frames(encoded(image, "PNG", icc_profile=profile), 1)
        assert distance(sampled, image.convert("RGB")) == 0
        assert sampled.warnings == ()


def test_a_profile_that_does_not_fit_is_told() -> None:
    # Of another colour space than the picture, or no profile at all.
    for profile, mode in ((rgb_profile(P3), "CMYK"), (b"nonsense", "RGB"), (rgb_profile(P3)[:200], "RGB")):
        image = picture().convert(mode)
        sampled = sample_frames(encoded(image, "TIFF", icc_profile=profile), 1)
        assert distance(sampled, image.convert("RGB")) == 0
        assert [warning.code for warning in sampled.warnings] == ["profile-ignored"]


def test_cmyk_is_read_the_right_way_round() -> None:
    image = picture().resize((160, 120), Image.Resampling.BICUBIC)
    # Pillow writes Adobe's marker and inverted samples, as Photoshop does.
    sampled = sample_frames(encoded(image.convert("CMYK"), "JPEG", quality=98, subsampling=0), 1)
    assert distance(sampled, image) <= LOSSY_TOLERANCE
    assert sampled.info.pixel_format == "cmyk"


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    return png[:33] + png_chunk(kind, data) + png[33:]


@pytest.mark.parametrize(("code", "name"), [(16, "smpte2084"), (18, "arib_std_b67")])
def test_an_hdr_still_is_told(code: int, name: str) -> None:
    sampled = sample_frames(with_chunk(encoded(picture(), "PNG"), b"cICP", bytes([9, code, 0, 1])), 1)
    assert (sampled.info.color_primaries, sampled.info.color_transfer) == ("bt2020", name)
    assert [warning.code for warning in sampled.warnings] == ["hdr-as-coded"]
    avif = encoded(picture(), "AVIF")
    place = avif.index(b"nclx") + 4
    sampled = sample_frames(avif[:place] + struct.pack(">HH", 9, code) + avif[place + 4 :], 1)
    assert sampled.info.color_transfer == name
    assert [warning.code for warning in sampled.warnings] == ["hdr-as-coded"]


@pytest.mark.parametrize("transfer", [4, 13])
def test_wide_primaries_declared_by_codes_are_converted(transfer: int) -> None:
    # The same numbers with a profile that says the same; sRGB's curve and a power of 2.2 are near each other.
    by_profile = sample_frames(encoded(picture(), "PNG", icc_profile=rgb_profile(P3)), 1)
    by_codes = sample_frames(with_chunk(encoded(picture(), "PNG"), b"cICP", bytes([12, transfer, 0, 1])), 1)
    assert distance(by_codes, by_profile.frames[0]) <= (1 if transfer == 4 else 16)
    # By sRGB's own curve, greys stay what they are.
    grey = picture().convert("L").convert("RGB")
    if transfer == 13:
        assert distance(sample_frames(with_chunk(encoded(grey, "PNG"), b"cICP", b"\x0c\x0d\0\1"), 1), grey) <= 1
    avif = encoded(picture(), "AVIF", quality=100, subsampling="4:4:4")
    place = avif.index(b"nclx") + 4
    wide = sample_frames(avif[:place] + struct.pack(">HH", 12, transfer) + avif[place + 4 :], 1)
    assert distance(wide, by_codes.frames[0]) <= LOSSY_TOLERANCE


def test_the_crop_of_an_avif_is_applied_before_its_turn() -> None:
    image = picture().resize((256, 128), Image.Resampling.BICUBIC)
    crop = struct.pack(">8i", 100, 1, 60, 1, 20, 1, -10, 1)
    sampled = sample_frames(grid_avif(image, 1, crop), 1)
    expected = np.rot90(np.asarray(image)[24:84, 98:198])
    assert sampled.frames[0].shape == expected.shape
    assert np.abs(sampled.frames[0].astype(int) - expected).mean() < 4


def test_the_shape_of_pixels_is_told() -> None:
    anamorphic = with_chunk(encoded(picture(), "PNG"), b"pHYs", struct.pack(">IIB", 2000, 1000, 0))
    assert sample_frames(anamorphic, 1).info.sample_aspect_ratio == "1:2"
    assert sample_frames(encoded(picture(), "JPEG", dpi=(100, 200)), 1).info.sample_aspect_ratio == "2:1"
    assert sample_frames(encoded(picture(), "TIFF", dpi=(204, 98)), 1).info.sample_aspect_ratio == "49:102"


def test_only_the_first_picture_of_a_photograph_counts() -> None:
    jpeg = encoded(picture(), "JPEG")
    others = [ImageOps.invert(picture()), picture().resize((20, 15))]
    indexed = encoded(picture(), "MPO", save_all=True, append_images=others)
    preview = encoded(picture().resize((16, 12)), "JPEG")
    exif = Image.Exif()
    exif[0x010E] = "x"
    single = sample_frames(jpeg, 2)
    for content in (indexed, jpeg + preview, jpeg + b"trailing junk", jpeg + bytes(8), jpeg + jpeg[:2]):
        sampled = sample_frames(content, 2)
        assert distance(sampled, single.frames[0]) == 0
        assert sampled.info == single.info


def test_a_stream_of_pictures_is_a_video() -> None:
    images = [picture(index) for index in range(6)]
    for file_format in ("JPEG", "PNG", "BMP", "PPM"):
        sampled = sample_frames(b"".join(encoded(image, file_format) for image in images), 6)
        assert (sampled.info.decoder, sampled.info.frame_count) == ("pyav", 6)


def test_the_first_full_page_of_a_tiff_counts() -> None:
    pages = encoded(picture(0), "TIFF", save_all=True, append_images=[picture(5)])
    sampled = sample_frames(pages, 2)
    assert distance(sampled, picture(0)) == 0
    assert sampled.info.frame_count == 1
    # A page that says to be a smaller copy of another, as cameras put first.
    small = picture(0, 8, 6)
    small.encoderinfo = {"tiffinfo": {254: 1}}
    with_preview = io.BytesIO()
    small.save(with_preview, "TIFF", save_all=True, append_images=[picture(5)], tiffinfo={254: 1})
    changed = bytearray(with_preview.getvalue())
    # Of the second page, the tag is put back.
    second = changed.rindex(struct.pack("<HHII", 254, 4, 1, 1))
    changed[second + 8] = 0
    assert distance(sample_frames(bytes(changed), 1), picture(5)) == 0


def test_a_camera_raw_file_is_refused() -> None:
    with pytest.raises(VideoDecodeError, match="is a TIFF picture of a camera's raw data; develop it"):
        sample_frames(encoded(picture(), "TIFF", tiffinfo={50706: b"\1\4\0\0"}), 1)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"])
def test_each_compression_of_tiff_decodes(compression: str) -> None:
    try:
        content = encoded(picture(), "TIFF", compression=compression)
    except OSError:
        pytest.skip(f"this Pillow has no {compression}")
    with Image.open(io.BytesIO(content)) as image:
        assert distance(sample_frames(content, 1), image.convert("RGB")) == 0


def test_an_unknown_compression_is_refused() -> None:
    content = bytearray(encoded(picture(), "TIFF"))
    place = content.index(struct.pack("<HHI", 259, 3, 1)) + 8
    content[place : place + 2] = struct.pack("<H", 34713)
    with pytest.raises(VideoDecodeError, match="<bytes> is a TIFF picture that does not decode"):
        sample_frames(bytes(content), 1)


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, version: int, *parts: bytes) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *parts)


def grid_avif(image: Image.Image, quarter_turns: int, crop: bytes = b"") -> bytes:
    """An AVIF picture of two tiles side by side, turned counter-clockwise, as phones write it."""
    width, height = image.size
    tiles, configuration = [], b""
    for left in (0, width // 2):
        tile = encoded(image.crop((left, 0, left + width // 2, height)), "AVIF", quality=95)
        at, data = tile.index(b"av1C") - 4, tile.index(b"mdat")
        configuration = tile[at : at + int.from_bytes(tile[at : at + 4], "big")]
        tiles.append(tile[data + 4 :])
    grid = struct.pack(">BBBBHH", 0, 0, 0, 1, width, height)
    properties = [
        full_box(b"ispe", 0, struct.pack(">II", width, height)),
        full_box(b"ispe", 0, struct.pack(">II", width // 2, height)),
        configuration,
        full_box(b"pixi", 0, bytes([3, 8, 8, 8])),
        box(b"colr", b"nclx", struct.pack(">HHHB", 1, 13, 6, 128)),
        box(b"irot", bytes([quarter_turns])),
        *([box(b"clap", crop)] if crop else []),
    ]
    of_grid = bytes([1, 4, 5, 6 | 128, *([7 | 128] if crop else [])])
    of_tile = b"".join(struct.pack(">HB", item, 4) + bytes([2, 3 | 128, 4, 5]) for item in (2, 3))

    def meta(offset: int) -> bytes:
        places = struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(grid))
        for item, tile in zip((2, 3), tiles, strict=True):
            places += struct.pack(">HHHHII", item, 0, 0, 1, offset, len(tile))
            offset += len(tile)
        items = [(1, b"grid"), (2, b"av01"), (3, b"av01")]
        return full_box(
            b"meta",
            0,
            full_box(b"hdlr", 0, bytes(4) + b"pict" + bytes(13)),
            full_box(b"pitm", 0, struct.pack(">H", 1)),
            full_box(b"iloc", 1, struct.pack(">BBH", 0x44, 0, 3), places),
            full_box(
                b"iinf",
                0,
                struct.pack(">H", 3),
                *[full_box(b"infe", 2, struct.pack(">HH4sx", item, 0, kind)) for item, kind in items],
            ),
            full_box(b"iref", 0, box(b"dimg", struct.pack(">HHHH", 1, 2, 2, 3))),
            box(
                b"iprp",
                box(b"ipco", *properties),
                full_box(b"ipma", 0, struct.pack(">IHB", 3, 1, len(of_grid)) + of_grid + of_tile),
            ),
            box(b"idat", grid),
        )

    head = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", *tiles)


def test_all_tiles_of_a_picture_are_seen() -> None:
    image = picture().resize((256, 128), Image.Resampling.BICUBIC)
    for turns in (0, 1):
        sampled = sample_frames(grid_avif(image, turns), 1)
        assert (sampled.info.frame_count, sampled.info.rotation_degrees) == (1, -90 * turns % 360)
        expected = np.rot90(np.asarray(image), turns)
        assert sampled.frames[0].shape == expected.shape
        assert np.abs(sampled.frames[0].astype(int) - expected).mean() < 4


def test_heic_names_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = box(b"ftyp", b"heic", bytes(4), b"mif1heic") + box(b"meta", bytes(4)) + box(b"mdat", bytes(100))
    with pytest.raises(
        VideoDecodeError, match=r'is a HEIC picture that takes pillow-heif; pip install "diffvqa-rt\[heic\]"'
    ):
        sample_frames(heic, 1)


def test_stills_are_not_for_the_gpu() -> None:
    for content in (encoded(picture(), "PNG"), encoded(picture(), "AVIF"), animation("GIF", [100, 100])):
        with pytest.raises(DeviceDecodeError, match="is a picture, which is not for the GPU"):
            plan_decoding(content, 2)


DELAYS_MS = [100, 300, 50, 150, 400]


def animation(file_format: str, delays_ms: list[int], **options: object) -> bytes:
    images = [picture(2 * index).quantize(64).convert("RGB") for index in range(len(delays_ms))]
    if file_format == "GIF":
        images = [image.quantize(64) for image in images]
    options = ({"lossless": True} if file_format == "WEBP" else {}) | options
    return encoded(images[0], file_format, save_all=True, append_images=images[1:], duration=delays_ms, **options)


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


def test_apng_blends_and_disposes() -> None:
    half = Image.new("RGBA", (8, 6), (0, 0, 200, 128))
    full = Image.new("RGBA", (8, 6), (200, 0, 0, 255))
    content = encoded(full, "PNG", save_all=True, append_images=[half, full], blend=[0, 1, 0], duration=100)
    assert np.abs(sample_frames(content, 3).frames[1][0, 0].astype(int) - (100, 0, 100)).max() <= 1


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
    assert capfd.readouterr() == ("", "")


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


def test_videos_are_not_taken_for_pictures() -> None:
    for container, codec in (("mp4", "libx264"), ("matroska", "mjpeg"), ("avi", "mjpeg"), ("mov", "png")):
        options = {"pixel_format": "rgb24" if codec == "png" else "yuvj420p" if codec == "mjpeg" else "yuv420p"}
        assert sample_frames(make_clip(codec, container, frames=3, **options), 1).info.decoder == "pyav"
