"""Pictures by Pillow: stills, and animations as the videos that they are.

`sampling` is the way in. `formats` tells a format by its first bytes, `header` is what a file says of itself, which
`bitmaps`, `gif`, `heif`, `jpeg`, `png` and `webp` read; `opening` opens by Pillow under this package's rules, `heic` by
pillow-heif; `animation` draws pictures over each other; `pixels` makes 8-bit sRGB of what was decoded.
"""

from diffvqa_rt.video.stills.sampling import declared_size, sample_picture_of_sequence, sample_still

__all__ = ["declared_size", "sample_picture_of_sequence", "sample_still"]
