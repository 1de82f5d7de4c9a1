"""The noise that is added to the pictures."""

from typing import Literal

from lora_core.settings.base import Settings, setting


class NoiseSettings(Settings):
    noise_offset: float | None = setting(None, "Noise offset", "noise_offset", gt=0, le=1)
    """Lets the LoRA learn darker and brighter pictures; 0.05 to 0.1. Empty: off."""
    timestep_sampling: Literal["flux_shift", "shift", "sigmoid", "uniform", "logit_normal"] = setting(
        "flux_shift", "Timestep sampling", "timestep_sampling"
    )
    """FLUX.1: how much noise is added how often. FLUX shift adds more to larger pictures, as the model was trained; shift does so by a fixed number; sigmoid prefers the middle; uniform draws all alike."""
    sigmoid_scale: float = setting(1.0, "Sigmoid scale", "sigmoid_scale", gt=0, le=10)
    """FLUX.1: how widely FLUX shift, shift and sigmoid spread. Above 1 there are more very clean and very noisy steps."""
    discrete_flow_shift: float = setting(3.1582, "Flow shift", "discrete_flow_shift", gt=0, le=100)
    """FLUX.1: the number of the timestep sampling "shift". 3.1582 suits 1024 pixels; 1 does not shift, more means more noise."""
    logit_mean: float = setting(0.0, "Logit-normal mean", "logit_mean", ge=-10, le=10)
    """FLUX.1: where the logit-normal timesteps gather. 0 is the middle, above 0 is noisier."""
    logit_std: float = setting(1.0, "Logit-normal deviation", "logit_std", gt=0, le=10)
    """FLUX.1: how widely the logit-normal timesteps spread."""
