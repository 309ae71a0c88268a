"""Training and evaluation: what needs more than an engine folder and NumPy (`pip install 'diffvqa-rt[train]'`).

`synthetic` makes the synthetic distortion set: of the `scenes` that come from the `pool` of real media (`packages` gets
it), by the `distortions`, labelled by `vmaf`; `clip_files` writes and reads its videos. Scoring a video imports none of
it.
"""
