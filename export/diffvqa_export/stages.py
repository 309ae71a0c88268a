"""The stages that are exported, in the order in which a video passes them."""

from diffvqa_export import head, unet_controller, vae_encoder

STAGES = {module.STAGE.name: module.STAGE for module in (vae_encoder, unet_controller, head)}
