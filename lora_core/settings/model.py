"""The model a LoRA is trained on: one variant for each family, with what it has to say."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lora_core.settings.base import Settings, SourceModel, UserPath, setting


class ModelSettings(Settings):
    """What every family has."""

    length_field: ClassVar[str] = "max_token_length"
    """The field that says how many tokens of a caption are read."""

    base: SourceModel = setting("", "Source model", "pretrained_model_name_or_path", max_length=4096)
    """The model to train on: a .safetensors or .ckpt file, a diffusers folder, or "built-in" for the small model that comes with Kumakobo."""
    vae: UserPath = setting(None, "VAE", "vae")
    """A VAE to use instead of the one inside the source model. Leave empty unless the model's author names one."""
    allow_download: bool = setting(False, "Allow download from Hugging Face")
    """When the source model is a Hugging Face name instead of a path, download it. Off: nothing ever leaves this machine."""


class _ReadsClip(ModelSettings):
    max_token_length: Literal[75, 150, 225] = setting(75, "Max token length", "max_token_length")
    """Captions longer than this are cut. 225 reads long captions at a small cost in speed."""
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = setting("auto", "Prediction type")
    """What the model was trained to predict: the noise (epsilon) or the velocity (v). Auto reads it from the file; choose v when a v-prediction model is not marked as one."""


class _SkipsClipLayers(_ReadsClip):
    clip_skip: int = setting(1, "Clip skip", "clip_skip", ge=1, le=12)
    """Which layer of the text encoder is read, counted from the end: 1 is the last, 2 is usual for anime models."""


class Sd1Model(_SkipsClipLayers):
    family: Literal["sd1"] = "sd1"


class Sd2Model(_SkipsClipLayers):
    family: Literal["sd2"] = "sd2"


class SdxlModel(_ReadsClip):
    family: Literal["sdxl"] = "sdxl"


class FluxModel(ModelSettings):
    length_field: ClassVar[str] = "t5_max_token_length"
    family: Literal["flux"] = "flux"
    clip_l: UserPath = setting(None, "CLIP-L", "clip_l")
    """The file clip_l.safetensors, or a folder with it. Empty when the source model is a diffusers folder that holds it."""
    t5: UserPath = setting(None, "T5-XXL", "t5xxl")
    """The file t5xxl_fp16.safetensors, or a folder with it. Empty when the source model is a diffusers folder that holds it."""
    t5_max_token_length: int = setting(512, "T5 max token length", "t5xxl_max_token_length", ge=16, le=512)
    """Captions longer than this are cut. 512 for FLUX.1 dev, 256 for schnell; less is faster."""
    guidance: float = setting(1.0, "Guidance while training", "guidance_scale", ge=0, le=100)
    """The guidance that FLUX.1 dev is told while it trains. 1 is right for a LoRA; the CFG scale of the samples is set there."""
    apply_t5_attn_mask: bool = setting(False, "Leave out T5's padding", "apply_t5_attn_mask")
    """Lets the model look at the words of a caption only, not at the padding behind them. FLUX.1 was trained with the padding, and other programs draw with it: leave this off unless you know why."""


AnyModel = Annotated[
    Sd1Model | Sd2Model | SdxlModel | FluxModel,
    Field(discriminator="family", title="Model type"),
]
