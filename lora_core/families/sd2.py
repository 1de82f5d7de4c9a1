"""Stable Diffusion 2.x: version 1 with another text encoder, and names of layers as there."""

from lora_core.families.base import Components, Drawing
from lora_core.families.sd import StableDiffusion1


class StableDiffusion2(StableDiffusion1):
    """Epsilon (512) or velocity prediction (768); OpenCLIP ViT-H, of which the layer before the last is the last.

    The last layer is never read, so it is not loaded: clip skip 1 is the layer before it, with the final norm.
    """

    name = "sd2"

    def drawing(self, components: Components) -> Drawing:
        """The version for noise was made for 512 pixels, the one for velocity for 768; a file does not say it.

        diffusers' folders do: 96 latents a side is 768.
        """
        facts = super().drawing(components)
        full = facts.side == _SIDE_OF_VELOCITY
        if full and components.prediction_type == "epsilon" and components.source.path.is_file():
            return Drawing(facts.channels, facts.factor, facts.multiple, _SIDE_OF_NOISE, facts.distilled)
        return facts


_SIDE_OF_NOISE, _SIDE_OF_VELOCITY = 512, 768
