"""One small sound file of every container and codec that the build decodes, as bytes by name."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from clips import moving_picture
from ffmpeg import ffmpeg
from PIL import Image, ImageCms, features

SIZE = (64, 48)
FRAMES = 12

# Name with its suffix, and what ffmpeg is told. The source is a moving picture of twelve frames.
_VIDEOS: dict[str, tuple[object, ...]] = {
    "h264.mp4": ("-c:v", "libx264", "-bf", 2, "-g", 6),
    "h264-fragments.mp4": ("-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov"),
    "h264-interlaced.mkv": ("-c:v", "libx264", "-flags", "+ilme+ildct", "-x264-params", "tff=1"),
    "h264.ts": ("-c:v", "libx264", "-g", 6),
    "h264.flv": ("-c:v", "libx264", "-g", 6),
    "h264.avi": ("-c:v", "libx264", "-bf", 2),
    "h264.h264": ("-c:v", "libx264", "-g", 6),
    "hevc.mp4": ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1:keyint=6", "-tag:v", "hvc1"),
    "hevc.ts": ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1:keyint=6"),
    "hevc.hevc": ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1:keyint=6"),
    "av1.mp4": ("-c:v", "libaom-av1", "-cpu-used", 8, "-lag-in-frames", 0),
    "av1.ivf": ("-c:v", "libaom-av1", "-cpu-used", 8, "-lag-in-frames", 0),
    "vp8.webm": ("-c:v", "libvpx", "-cpu-used", 8),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-cpu-used", 8),
    "ffv1.mkv": ("-c:v", "ffv1", "-level", 3, "-slicecrc", 1),
    "prores.mov": ("-c:v", "prores_ks"),
    "mjpeg.mov": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "mjpeg.mjpeg": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "png.mov": ("-c:v", "png"),
    "qtrle.mov": ("-c:v", "qtrle"),
    "smc.mov": ("-vf", "format=rgb24,format=rgb8,format=pal8", "-c:v", "smc"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-bf", 2, "-g", 6),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-g", 6),
    "mpeg4.m4v": ("-c:v", "mpeg4", "-g", 6),
    "msmpeg4.avi": ("-c:v", "msmpeg4", "-g", 6),
    "rawvideo.avi": ("-vf", "format=rgb24,format=rgb8,format=pal8", "-c:v", "rawvideo"),
    "huffyuv.avi": ("-c:v", "huffyuv", "-pix_fmt", "yuv422p"),
    "wmv2.wmv": ("-c:v", "wmv2", "-g", 6),
    "flv1.flv": ("-c:v", "flv", "-g", 6),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-bf", 2),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-bf", 2),
    "mpeg2.mxf": ("-c:v", "mpeg2video"),
    "mpeg1.mpg": ("-c:v", "mpeg1video"),
    "theora.ogv": ("-c:v", "libtheora"),
    "dnxhd.mxf": ("-c:v", "dnxhd", "-profile:v", "dnxhr_lb", "-pix_fmt", "yuv422p", "-s", "256x120"),
    "h263.3gp": ("-c:v", "h263", "-s", "128x96"),
    "dv.dv": ("-c:v", "dvvideo", "-s", "720x576", "-pix_fmt", "yuv420p", "-frames:v", 1),
    "ffv1.nut": ("-c:v", "ffv1"),
    "raw.y4m": ("-frames:v", 3),
}


def sound_files() -> dict[str, bytes]:
    """Every file of the corpus whose encoder this machine has; the same bytes at each call."""
    files = _pictures()
    with TemporaryDirectory() as folder:
        source = Path(folder, "source.mkv")
        with av.open(source, "w") as output:
            stream = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            for index in range(FRAMES):
                frame = av.VideoFrame.from_ndarray(moving_picture(index, *SIZE), "rgb24")
                output.mux(stream.encode(frame.reformat(format="yuv420p")))
            output.mux(stream.encode())
        for name, options in _VIDEOS.items():
            target = Path(folder, name)
            # Without bits that would tell a version or a moment.
            exact = ("-bitexact", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", -1)
            ffmpeg("-i", source, *exact, *options, target)
            files[name] = target.read_bytes()
    return files


def _pictures() -> dict[str, bytes]:
    pictures = [Image.fromarray(moving_picture(index, *SIZE)) for index in range(4)]
    first, *others = pictures
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x112] = 6
    grey = Image.fromarray(np.asarray(first.convert("L"), np.uint16) * 257)
    animated: dict[str, object] = {"save_all": True, "append_images": others, "duration": 80, "loop": 0}
    wanted: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "plain.png": (first, "PNG", {"icc_profile": profile, "exif": exif}),
        "palette.png": (first.convert("P"), "PNG", {}),
        "grey16.png": (grey, "PNG", {}),
        "animated.png": (first, "PNG", animated),
        "plain.jpg": (first, "JPEG", {"exif": exif, "icc_profile": profile}),
        "progressive.jpg": (first, "JPEG", {"progressive": True}),
        "cmyk.jpg": (first.convert("CMYK"), "JPEG", {}),
        "pair.mpo": (first, "MPO", {"save_all": True, "append_images": others[:1]}),
        "still.gif": (first.convert("P"), "GIF", {}),
        "animated.gif": (first.convert("P"), "GIF", animated),
        "lossy.webp": (first, "WEBP", {"exif": exif}),
        "lossless.webp": (first.convert("RGBA"), "WEBP", {"lossless": True}),
        "animated.webp": (first, "WEBP", animated),
        "lzw.tif": (first, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": (first, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (first, "TIFF", {"compression": "jpeg"}),
        "fax.tif": (first.convert("1"), "TIFF", {"compression": "group4"}),
        "plain.bmp": (first, "BMP", {}),
        "plain.ppm": (first, "PPM", {}),
        "plain.jp2": (first, "JPEG2000", {}),
    }
    if features.check("avif"):
        wanted["still.avif"] = (first, "AVIF", {"speed": 10, "exif": exif, "max_threads": 1})
        wanted["animated.avif"] = (first, "AVIF", {**animated, "speed": 10, "max_threads": 1})
    files = {}
    for name, (picture, picture_format, options) in wanted.items():
        file = io.BytesIO()
        picture.save(file, picture_format, **options)
        files[name] = file.getvalue()
    return files
