"""`vae_encoder` in Triton server: the engine of that name, which is all that this process opens."""

from diffvqa_rt.serving.python_backend import EngineModel


class TritonPythonModel(EngineModel):
    hands_over_to = "denoise"
