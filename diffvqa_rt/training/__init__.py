"""Training (the extra `train`): `loop` trains, whatever is trained, and keeps a `checkpoint`.

`media` finds videos and images to learn from; `arguments` has the command line's options of every run. A metric's own
training stages are in a folder with its name. Scoring a video imports none of it.
"""
