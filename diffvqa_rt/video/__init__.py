"""From a file, bytes or an array to upright RGB frames; no metric is known here.

    sampled = sample_frames("clip.mp4", count=8)

Needs PyAV, NumPy and Pillow. `container` opens the file, `timeline` finds when each frame is on screen, `reader`
decodes from a keyframe on, `decode` picks the samples, and `color` makes each an upright RGB picture. `stills` decodes
pictures, and `sequence` reads a folder of them. `plan` says how a GPU is to decode a file, and `crops` and `texture`
where the pieces of a frame lie that a metric looks at: by a seed, or by what the frame shows.
"""

from diffvqa_rt.video.crops import MAX_SEED, crop_places
from diffvqa_rt.video.decode import sample_frames
from diffvqa_rt.video.sampled import SampledFrames, VideoInfo

DECODING_VERSION = 3
"""Goes up when the same file is to give other pixels: another decoder, other colours, other samples, other views.

What keeps anything that was made from decoded pixels has it in its key, so that two decoders' results never mix.
"""

__all__ = ["DECODING_VERSION", "MAX_SEED", "SampledFrames", "VideoInfo", "crop_places", "sample_frames"]
