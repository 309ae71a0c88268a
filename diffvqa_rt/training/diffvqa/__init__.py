"""DiffVQA's training stages.

The Controller learns by `denoising` on `pictures` from folders, and the head (`head`) on `features` that are extracted
once. `bundled` makes the weights that the package brings, and `diagnosis` draws what a network has learned; both use
the VAE's `decoder`.
"""
