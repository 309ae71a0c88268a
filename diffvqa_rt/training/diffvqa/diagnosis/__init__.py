"""Pictures of what a network has learned.

`reconstruction` needs the VAE's decoder, `embedding` a synthetic set, and `curves` a run's folder.
"""
