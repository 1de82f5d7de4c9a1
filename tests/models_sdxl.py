"""Small random Stable Diffusion 2 and SDXL models: as a diffusers folder and as the same weights in one file.

The way to the names of the original code (LDM for the U-Net, OpenCLIP for the text) is written here backwards and by
itself, so that the loader is checked against something that is not the loader.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.models import BUNDLED_TOKENIZER, _as_conv, _spread, ldm_unet_key, ldm_vae_key

WIDTH, WIDTH_2, PROJECTION = 64, 128, 64
"""Of SDXL's small text encoders (one and two heads), and of the text as a whole."""
LAYERS = 2
"""Of each level of the U-Nets."""


@dataclass
class TinyModel:
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection | None = None
    """SDXL's only."""

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        return {name: module for name, module in vars(self).items() if module is not None}


def _vae(scale: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=scale,
    )


def _clip(cls: type, width: int, **settings: object) -> CLIPTextModel:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        vocab_size=49408,
        max_position_embeddings=77,
        eos_token_id=2,
        **settings,
    )
    model = cls(config)
    _spread(model)
    return model


def _unet(**settings: object) -> UNet2DConditionModel:
    """Two levels; heads are 64 wide in the real models, so here each level has one."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=LAYERS,
        attention_head_dim=(1, 1),
        use_linear_projection=True,
        **settings,
    )


def tiny_model(family: str, seed: int = 0) -> TinyModel:
    """The networks of a family with random weights: "sd2" or "sdxl"."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (_tiny_sd2 if family == "sd2" else _tiny_sdxl)()


def _tiny_sd2() -> TinyModel:
    unet = _unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
    )
    text = _clip(CLIPTextModel, WIDTH, hidden_act="gelu")
    return TinyModel(unet.eval(), _vae(0.18215).eval(), text.eval())


def _tiny_sdxl() -> TinyModel:
    unet = _unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH + WIDTH_2,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=PROJECTION + 6 * 8,
    )
    text = _clip(CLIPTextModel, WIDTH, hidden_act="quick_gelu")
    text_2 = _clip(CLIPTextModelWithProjection, WIDTH_2, hidden_act="gelu", projection_dim=PROJECTION)
    return TinyModel(unet.eval(), _vae(0.13025).eval(), text.eval(), text_2.eval())


def tiny_folder(path: Path, family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **scheduler) -> Path:
    """A diffusers folder, as diffusers and transformers write one. Returns the path."""
    model = tiny_model(family, seed)
    for name, module in model.modules.items():
        module.to(dtype).save_pretrained(path / name)
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    DDPMScheduler(**options | scheduler).save_pretrained(path / "scheduler")
    classes = {
        name: [type(module).__module__.split(".")[0], type(module).__name__] for name, module in model.modules.items()
    }
    tokenizers = {name.replace("text_encoder", "tokenizer"): name for name in model.modules if name.startswith("text")}
    index = {
        "_class_name": "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        **classes,
        **{name: ["transformers", "CLIPTokenizer"] for name in tokenizers},
        "scheduler": ["diffusers", "DDPMScheduler"],
        **({} if family == "sdxl" else {"safety_checker": [None, None], "feature_extractor": [None, None]}),
    }
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    for name, encoder in tokenizers.items():
        shutil.copytree(BUNDLED_TOKENIZER, path / name, dirs_exist_ok=True)
        if is_open_clip(family, encoder):
            _pad_with_exclamation_mark(path / name)
    return path


def is_open_clip(family: str, encoder: str) -> bool:
    return family == "sd2" or encoder == "text_encoder_2"


def _pad_with_exclamation_mark(folder: Path) -> None:
    """As in the folders of Stable Diffusion 2 and SDXL's second tokenizer."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8")) | {"pad_token": "!"}
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def tiny_file(
    path: Path,
    family: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    markers: tuple[str, ...] = (),
    metadata: dict[str, str] | None = None,
) -> Path:
    """The weights of ``tiny_folder`` with the same seed in one file with the original names.

    ``markers`` are empty tensors such as "v_pred" and "ztsnr".
    """
    state = original_state(tiny_model(family, seed), family)
    state = {key: tensor.to(dtype).contiguous() for key, tensor in state.items()}
    state |= {marker: torch.zeros(1) for marker in markers}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path, metadata)
    else:
        torch.save({"state_dict": state}, path)
    return path


def original_state(model: TinyModel, family: str) -> dict[str, Tensor]:
    """All tensors under the names that Stability's code gives them."""
    levels = len(model.vae.config.block_out_channels)
    unet = {f"model.diffusion_model.{unet_key(k, family)}": v for k, v in model.unet.state_dict().items()}
    vae = {f"first_stage_model.{ldm_vae_key(k, levels)}": _as_conv(k, v) for k, v in model.vae.state_dict().items()}
    clip = {k.removeprefix("text_model."): v for k, v in model.text_encoder.state_dict().items()}
    if model.text_encoder_2 is None:
        last = {k: torch.randn_like(v) for k, v in clip.items() if ".layers.1." in k}
        clip |= {k.replace(".layers.1.", ".layers.2."): v for k, v in last.items()}
        text = {f"cond_stage_model.model.{k}": v for k, v in open_clip_state(clip, torch.randn(WIDTH, WIDTH)).items()}
        return unet | vae | text
    second = {k.removeprefix("text_model."): v for k, v in model.text_encoder_2.state_dict().items()}
    projection = second.pop("text_projection.weight").T
    return (
        unet
        | vae
        | {f"conditioner.embedders.0.transformer.text_model.{k}": v for k, v in clip.items()}
        | {f"conditioner.embedders.1.model.{k}": v for k, v in open_clip_state(second, projection).items()}
    )


def unet_key(key: str, family: str) -> str:
    """The LDM name of a diffusers U-Net weight."""
    if match := re.match(r"add_embedding\.linear_([12])\.(.+)", key):
        return f"label_emb.0.{2 * int(match[1]) - 2}.{match[2]}"
    if match := re.match(r"up_blocks\.(\d)\.upsamplers\.0\.(.+)", key):
        # Behind resnet and transformer in SDXL, behind the resnet alone in the first block of the others.
        place = 2 if family == "sdxl" or int(match[1]) else 1
        return f"output_blocks.{(int(match[1]) + 1) * (LAYERS + 1) - 1}.{place}.{match[2]}"
    return ldm_unet_key(key, LAYERS)


_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}


def open_clip_state(clip: dict[str, Tensor], projection: Tensor) -> dict[str, Tensor]:
    """OpenCLIP's names and shapes for a CLIPTextModel's weights; ``projection`` as OpenCLIP keeps it, (width, out)."""
    state = {_OPEN_CLIP[key]: tensor for key, tensor in clip.items() if key in _OPEN_CLIP}
    count = 1 + max(int(m[1]) for key in clip if (m := re.match(r"encoder\.layers\.(\d+)", key)))
    for number in range(count):
        ours, theirs = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for end in ("weight", "bias"):
            qkv = [clip[f"{ours}self_attn.{name}_proj.{end}"] for name in "qkv"]
            state[f"{theirs}attn.in_proj_{end}"] = torch.cat(qkv)
            for name, other in _OPEN_CLIP_LAYER.items():
                state[f"{theirs}{other}.{end}"] = clip[f"{ours}{name}.{end}"]
    return state | {"text_projection": projection.clone(), "logit_scale": torch.tensor(4.6)}
