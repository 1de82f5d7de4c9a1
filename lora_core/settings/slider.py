"""A concept slider from prompts: what is trained is the way from one prompt to another."""

from collections.abc import Mapping
from types import MappingProxyType

from lora_core.settings.base import Settings, setting

NO_SLIDER: Mapping[str, str] = MappingProxyType(
    {"slider.target": "", "slider.more": "", "slider.less": "", "slider.keep": ""}
)
"""By dotted path: all prompts emptied, for what trains pictures."""


class SliderSettings(Settings):
    target: str = setting("", "Concept slider: prompt", max_length=1000)
    """What the slider is for, in a prompt that leaves its concept open, such as "bear". Filled in, the LoRA learns the way between the next two prompts instead of pictures; without an image folder the model draws what it trains on."""
    more: str = setting("", "Concept slider: more", max_length=1000)
    """The same with more of the concept, such as "happy bear": strength 1 goes there."""
    less: str = setting("", "Concept slider: less", max_length=1000)
    """The same with less of it, or its opposite, such as "sad bear": strength -1 goes there."""
    keep: str = setting("", "Concept slider: keep apart", max_length=2000)
    """Words that the concept must not drag along, one a line, such as "male" and "female". The way is trained with each of them in front of the prompts, too."""
    guidance: float = setting(1.0, "Concept slider: guidance", gt=0, le=100)
    """How far strength 1 goes: with 1 as far from the prompt as less and more lie apart. Up to 4 for subtle things; higher shows sooner and spoils pictures sooner."""

    @property
    def is_on(self) -> bool:
        return bool(self.target.strip())
