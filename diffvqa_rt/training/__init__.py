"""Training (`pip install 'diffvqa-rt[train]'`): `loop` trains, whatever is trained, and keeps a `checkpoint`.

A metric's own training stages are in a folder with its name. Scoring a video imports none of it.
"""
