"""Training and evaluation: what needs more than an engine folder and NumPy (`pip install 'diffvqa-rt[train]'`).

`data_sets` reads tables of opinion scores into the one form of `mos_table`; `evaluate` compares scores with opinions by
`protocols` and `correlation`, and `report` and `scatter` show the result. Scoring a video imports none of it.

`diagnose` draws what a network has learned: `reconstruction` needs the VAE's `decoder`, `embedding` a synthetic set,
and `curves` a run's folder.

`synthetic` makes the synthetic distortion set: of the `scenes` that come from the `pool` of real media (`packages` gets
it), by the `distortions`, labelled by `vmaf`; `clip_files` writes and reads its videos. Scoring a video imports none of
it.
"""
