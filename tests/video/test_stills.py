"""Pictures: their pixels, orientation and colour, and what counts as a frame of a file."""

import io
import struct
import sys

import numpy as np
import pytest
from clips import make_clip, moving_picture
from numpy.typing import NDArray
from pictures import animation, distance, encoded, picture, with_chunk
from PIL import Image, ImageCms, ImageOps

from diffvqa_rt.errors import DeviceDecodeError, VideoDecodeError
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.plan import plan_decoding

# Two decoders of one JPEG, and a picture against its lossy copy: enough to tell turned from unturned.
LOSSY_TOLERANCE = 12
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}, "PPM": {}, "JPEG2000": {}}


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


def grey_tiff(samples: NDArray[np.uint16], bits: int, *, is_white_zero: bool = False, resolution: bytes = b"") -> bytes:
    """A little-endian TIFF of one strip of grey samples, which Pillow does not write in these ways."""
    if bits == 12:
        pairs = samples.reshape(-1, 2).astype(int)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
        data = packed.astype(np.uint8).tobytes()
    else:
        data = samples.astype(f"<u{bits // 8}").tobytes()
    height, width = samples.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, int(not is_white_zero))]
    tags += [(273, 4, 8 + len(resolution)), (277, 3, 1), (278, 3, height), (279, 4, len(data))]
    tags += [(282, 5, 8), (283, 5, 8)] if resolution else []
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    offset = 8 + len(resolution) + len(data)
    return (
        struct.pack("<2sHI", b"II", 42, offset) + resolution + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


@pytest.mark.parametrize(
    ("bits", "largest", "is_white_zero"),
    [(8, 255, False), (8, 255, True), (12, 4095, False), (16, 65535, False), (16, 65535, True)],
)
def test_grey_of_a_tiff_is_scaled_and_the_right_way_round(bits: int, largest: int, is_white_zero: bool) -> None:
    samples = np.linspace(0, largest, 32).astype(np.uint16).reshape(4, 8)
    sampled = sample_frames(grey_tiff(samples, bits, is_white_zero=is_white_zero), 1)
    expected = samples * (255 / largest)
    assert sampled.info.bit_depth == bits
    assert np.abs(sampled.frames[0][..., 0] - (255 - expected if is_white_zero else expected)).max() <= 1


@pytest.mark.parametrize(("numbers", "ratio"), [((72, 0), None), ((0, 0), None), ((28, 100), "1:1")])
def test_a_resolution_that_means_nothing_costs_no_picture(numbers: tuple[int, int], ratio: str | None) -> None:
    content = grey_tiff(np.full((4, 8), 7, np.uint16), 8, resolution=struct.pack("<II", *numbers))
    assert sample_frames(content, 1).info.sample_aspect_ratio == ratio


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
        VideoDecodeError, match="is a HEIC picture that takes pillow-heif, the extra heic; `diffvqa doctor` says how"
    ):
        sample_frames(heic, 1)


def test_stills_are_not_for_the_gpu() -> None:
    for content in (encoded(picture(), "PNG"), encoded(picture(), "AVIF"), animation("GIF", [100, 100])):
        with pytest.raises(DeviceDecodeError, match="is a picture, which is not for the GPU"):
            plan_decoding(content, 2)


def test_videos_are_not_taken_for_pictures() -> None:
    for container, codec in (("mp4", "libx264"), ("matroska", "mjpeg"), ("avi", "mjpeg"), ("mov", "png")):
        options = {"pixel_format": "rgb24" if codec == "png" else "yuvj420p" if codec == "mjpeg" else "yuv420p"}
        assert sample_frames(make_clip(codec, container, frames=3, **options), 1).info.decoder == "pyav"
