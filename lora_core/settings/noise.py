"""The noise that is added to the pictures, and how much of it."""

from typing import Literal

from lora_core.settings.base import Settings, setting


class NoiseSettings(Settings):
    noise_offset_type: Literal["original", "multires", "both"] = setting("original", "Noise type", "noise_offset_type")
    """Which of the two ways to darker and brighter pictures is used: a noise offset (original), noise in several sizes (multires), or both. Each needs its value below."""
    noise_offset: float | None = setting(None, "Noise offset", "noise_offset", gt=0, le=1)
    """Lets the LoRA learn darker and brighter pictures; 0.05 to 0.1. Empty: off."""
    noise_offset_random_strength: bool = setting(False, "Random noise offset strength", "noise_offset_random_strength")
    """Each time a strength between 0 and the noise offset. Gentler on middling pictures."""
    adaptive_noise_scale: float | None = setting(None, "Adaptive noise scale", "adaptive_noise_scale", ge=-1, le=1)
    """Adds this times the picture's own mean brightness and colour to the noise offset, so that extreme pictures get more. Empty: off."""
    multires_noise_iterations: int | None = setting(
        None, "Multires noise iterations", "multires_noise_iterations", ge=1, le=64
    )
    """Noise in so many sizes, each two to four times coarser; 6 to 10 is usual. Empty: off."""
    multires_noise_discount: float = setting(0.3, "Multires noise discount", "multires_noise_discount", ge=0, le=1)
    """How much weaker each coarser noise is: 0.3 is usual, 0.8 is strong. 0 leaves only the ordinary noise."""
    ip_noise_gamma: float | None = setting(None, "Input perturbation noise", "ip_noise_gamma", gt=0, le=1)
    """Disturbs what the model sees by this much more noise than it is told; 0.1 makes it sturdier. Empty: off."""
    ip_noise_gamma_random_strength: bool = setting(
        False, "Random input perturbation strength", "ip_noise_gamma_random_strength"
    )
    """Each time a strength between 0 and the value above."""
    min_timestep: int = setting(0, "Min timestep", "min_timestep", ge=0, le=999)
    """The least noise that is trained, of 1000. Above 0, fine detail is left as it is."""
    max_timestep: int = setting(1000, "Max timestep", "max_timestep", ge=1, le=1000)
    """The most noise that is trained, of 1000. Lower: the composition is left as it is and only detail is learned."""
    zero_terminal_snr: Literal["auto", "on", "off"] = setting("auto", "Zero terminal SNR")
    """Whether the noisiest step is nothing but noise, so that very dark and very bright pictures are possible; for v-prediction models made that way, such as NoobAI v-pred. Auto reads it from the file."""
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
