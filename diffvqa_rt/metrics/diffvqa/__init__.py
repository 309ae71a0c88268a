"""DiffVQA: the quality of a video, from an adapted Stable Diffusion and a bidirectional Mamba (SPEC.md)."""
