"""The pictures drawn along the way."""

from typing import Literal

from lora_core.settings.base import Settings, setting


class SampleSettings(Settings):
    prompts: str = setting("", "Sample prompts", "sample_prompts", max_length=100_000)
    """One picture per line, drawn while training. --n negative, --w width, --h height, --d seed, --l guidance, --s steps. A line beginning with # is left out."""
    every_n_epochs: int | None = setting(1, "Sample every n epochs", "sample_every_n_epochs", ge=1)
    """Draws the prompts every n epochs. Empty: not by epoch."""
    every_n_steps: int | None = setting(None, "Sample every n steps", "sample_every_n_steps", ge=1)
    """Draws the prompts every n steps. Empty: not by step."""
    at_start: bool = setting(True, "Sample at the start", "sample_at_first")
    """Draws the prompts once before training, to compare with."""
    sampler: Literal["euler_a", "euler", "ddim", "dpmpp_2m_karras", "unipc"] = setting(
        "euler_a", "Sampler", "sample_sampler"
    )
    """How the pictures are drawn from noise. Euler a is the web UIs' usual choice."""
    steps: int = setting(28, "Sampling steps", ge=1, le=1000)
    """Steps per picture when the prompt has no --s. 20 to 30 is usual."""
    guidance: float = setting(7.5, "CFG scale", ge=0, le=100)
    """How strictly the prompt is followed when it has no --l."""
    seed: int = setting(1, "Sample seed", ge=0, le=2**32 - 1)
    """Seed of the pictures when the prompt has no --d. The same each time, so that pictures compare."""
