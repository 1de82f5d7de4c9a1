"""What a LoRA's metadata calls the model it was trained on: sd-scripts' words and those of Stability's standard."""

from typing import Any, NamedTuple

from lora_core.settings import AnyModel, NoiseSettings

STABILITY = "https://github.com/Stability-AI/generative-models"
BLACK_FOREST = "https://github.com/black-forest-labs/flux"


class BaseModel(NamedTuple):
    """The names of one family."""

    version: str
    """ss_base_model_version."""
    architecture: str
    """modelspec.architecture, without "/lora"."""
    implementation: str = "diffusers"
    network_module: str = "networks.lora"
    """ss_network_module of a plain LoRA."""


def base_model(model: AnyModel, prediction_type: str, variant: str = "") -> BaseModel:
    """The names of the model that was trained on. ``variant`` tells models of one family apart: "schnell"."""
    velocity = prediction_type == "v_prediction"
    match model.family:
        case "sd2":
            version = "sd_v2_v" if velocity else "sd_v2"
            return BaseModel(version, "stable-diffusion-v2-768-v" if velocity else "stable-diffusion-v2-512")
        case "sdxl":
            return BaseModel("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", STABILITY)
        case "flux":
            return BaseModel("flux1", f"flux-1-{variant or 'dev'}", BLACK_FOREST, "networks.lora_flux")
    return BaseModel("sd_v1_v" if velocity else "sd_v1", "stable-diffusion-v1")


def told_of_the_model(model: AnyModel) -> dict[str, Any]:
    """The ss_* entries of the model's own settings."""
    clip = {"ss_max_token_length": getattr(model, "max_token_length", None)}
    return {
        "ss_v2": model.family == "sd2",
        "ss_clip_skip": getattr(model, "clip_skip", None),
        **{key: value for key, value in clip.items() if value is not None},
    }


def told_of_flow(model: AnyModel, noise: NoiseSettings) -> dict[str, Any]:
    """The ss_* entries that sd-scripts has for FLUX.1 alone; nothing for another family."""
    if model.family != "flux":
        return {}
    return {
        "ss_model_type": "flux",
        "ss_apply_t5_attn_mask": model.apply_t5_attn_mask,
        "ss_guidance_scale": model.guidance,
        "ss_timestep_sampling": noise.timestep_sampling,
        "ss_sigmoid_scale": noise.sigmoid_scale,
        "ss_discrete_flow_shift": noise.discrete_flow_shift,
        "ss_logit_mean": noise.logit_mean,
        "ss_logit_std": noise.logit_std,
        "ss_model_prediction_type": "raw",
        "ss_weighting_scheme": "none",
    }
