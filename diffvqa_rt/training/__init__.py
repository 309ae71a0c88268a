"""Training and evaluation: what needs more than an engine folder and NumPy (`pip install 'diffvqa-rt[train]'`).

`loop` trains, whatever is trained, and keeps a `checkpoint`. The Controller learns by `denoising` on `pictures` from
folders (`adapt_command`), and the head (`head`, `train_command`) on `features` that are extracted once.

`data_sets` reads tables of opinion scores into the one form of `mos_table`; `evaluate` compares scores with opinions by
`protocols` and `correlation`, and `report` and `scatter` show the result.

`diagnose` draws what a network has learned: `reconstruction` needs the VAE's `decoder`, `embedding` a synthetic set,
and `curves` a run's folder.

`synthetic` makes the synthetic distortion set: of the `scenes` that come from the `pool` of real media (`packages` gets
it), by the `distortions`, labelled by `vmaf`; `clip_files` writes and reads its videos, and `ladders` says how scores
follow its labels. `recipe` makes the bundled weights of it: the VAE's by `autoencoder`, the TCABs' by
`tcab_pretraining`.

Scoring a video imports none of it.
"""
