"""Mean luma, to which an eye adapts: a metric as small as one can be, and as unlike DiffVQA as a metric may be.

Its input has another name, its pixels another scale, no engine of it cuts frames, tensors have a number a row and no
more, the loop keeps an early turn, nothing follows the loop, and its frames have scores without weights.
"""
