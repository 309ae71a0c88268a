"""From a video to the network's input: decode a few frames, then cut the two views (SPEC §1).

    sampled = sample_frames("clip.mp4", count=8)
    views = make_views(sampled.frames, size=384)

Needs PyAV, NumPy and Pillow. `container` opens the file, `timeline` finds when each frame is on screen, `reader`
decodes from a keyframe on, `decode` picks the samples, `color` makes each an upright RGB picture, and `views` cuts what
the network sees. `dali` cuts the same by DALI, from these frames or from those that a GPU decodes by the `plan`; it is
the one module that needs DALI.
"""

from diffvqa_rt.video.decode import sample_frames
from diffvqa_rt.video.sampled import SampledFrames, VideoInfo
from diffvqa_rt.video.views import MAX_SEED, crop_places, make_views

DECODING_VERSION = 2
"""Goes up when the same file is to give other pixels: another decoder, other colours, other samples, other views.

What keeps anything that was made from decoded pixels has it in its key, so that two decoders' results never mix.
"""

__all__ = ["DECODING_VERSION", "MAX_SEED", "SampledFrames", "VideoInfo", "crop_places", "make_views", "sample_frames"]
