"""The noise that is added to the pictures."""

from lora_core.settings.base import Settings, setting


class NoiseSettings(Settings):
    noise_offset: float | None = setting(None, "Noise offset", "noise_offset", gt=0, le=1)
    """Lets the LoRA learn darker and brighter pictures; 0.05 to 0.1. Empty: off."""
