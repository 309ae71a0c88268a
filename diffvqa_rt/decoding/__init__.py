"""Videos are decoded in a process of their own: a file that ends it, or fills it, costs itself and nothing else.

    decoder = IsolatedDecoder()
    frames = decoder.frames("clip.mp4", 8).frames

What comes back is bit for bit what `diffvqa_rt.video` gives in this process. `limits` is what one video may take,
`worker` the process, `framing` the messages to and from it, `process` its life, and `decoder` what others call.
"""

from diffvqa_rt.decoding.decoder import EncodedSource, IsolatedDecoder, Pending, shared_decoder
from diffvqa_rt.decoding.limits import DecodeLimits

__all__ = ["DecodeLimits", "EncodedSource", "IsolatedDecoder", "Pending", "shared_decoder"]
