"""A labelled set of distorted videos, made from nothing but real media (`python -m diffvqa_rt.synthetic`).

The `scenes` come from the `pool` (`packages` gets it), the `distortions` make versions of them, and `vmaf` labels
these. `clip_files` writes and reads the videos, `views` what is kept of them, `clip_table` lists them, `labelled` gives
them to training, and `agreement` says how scores follow their labels.

Sets of their own are those of `stills`, and of `prompted` clips, whose prompts are right about part of what is seen.
"""
