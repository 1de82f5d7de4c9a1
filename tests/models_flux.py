"""Small random FLUX.1 models for tests: as a diffusers folder, and as the same weights in the files people have.

The way from diffusers' names to those of Black Forest Labs is written here a second time, backwards and by itself, so
that the loader is checked against something that is not the loader.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tests.models import BUNDLED_TOKENIZER, TEXT_WIDTH, _as_conv, _spread, ldm_vae_key

T5_WIDTH = 32
T5_LENGTH = 24
"""Tokens of a prompt in tests; the real model reads 512."""
HEAD = 32
WORDS = ("bear", "snow", "usu", "red", "in", "the", "a", "pic", "ture")


@dataclass
class TinyFlux:
    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: T5EncoderModel


def tiny_flux(seed: int = 0, *, guidance: bool = True) -> TinyFlux:
    """The four networks with random weights: 2 double and 2 single blocks of width 64, latents of 16 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=HEAD,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 14, 14),
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=TEXT_WIDTH,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=1,
                vocab_size=49408,
                max_position_embeddings=77,
            )
        )
        text_encoder_2 = T5EncoderModel(
            T5Config(
                d_model=T5_WIDTH,
                d_kv=8,
                d_ff=48,
                num_heads=4,
                num_layers=2,
                vocab_size=200,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        )
        parts = TinyFlux(transformer.eval(), vae.eval(), text_encoder.eval(), text_encoder_2.eval())
        for part in (transformer, text_encoder, text_encoder_2):
            _spread(part)
        # As freshly drawn, the last layer's answers are smaller than any target, and no LoRA sits on it.
        transformer.proj_out.weight.data *= 4
    return parts


def t5_pieces() -> list[tuple[str, float]]:
    """A vocabulary of a few words, all printable ASCII and some Japanese; the first three are T5's."""
    letters = [chr(code) for code in range(33, 127)] + list("うすくま赤い雪")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0 - i / 10) for i, word in enumerate(WORDS)]
    return pieces + [(letter, -6.0 - i / 100) for i, letter in enumerate(letters)]


def t5_tokenizer_json(path: Path) -> Path:
    """tokenizer.json, as transformers writes T5's."""
    tokenizer = Tokenizer(Unigram(t5_pieces(), unk_id=2, byte_fallback=False))
    space = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
    )
    tokenizer.decoder = decoders.Metaspace(**space)
    tokenizer.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def tiny_flux_folder(
    path: Path,
    *,
    seed: int = 0,
    guidance: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A diffusers folder, as diffusers and transformers themselves write one. Returns the path."""
    parts = tiny_flux(seed, guidance=guidance)
    for name, part in vars(parts).items():
        part.to(dtype).save_pretrained(path / name)
    FlowMatchEulerDiscreteScheduler(shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance).save_pretrained(
        path / "scheduler"
    )
    shutil.copytree(BUNDLED_TOKENIZER, path / "tokenizer", dirs_exist_ok=True)
    t5_tokenizer_json(path / "tokenizer_2" / "tokenizer.json")
    config = {"tokenizer_class": "T5TokenizerFast", "extra_ids": 0, "model_max_length": 512}
    (path / "tokenizer_2" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    index = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return path


@dataclass
class FluxFiles:
    """The four files as people have them."""

    base: Path
    vae: Path
    clip_l: Path
    t5: Path

    @property
    def settings(self) -> dict[str, str]:
        return {name: str(path) for name, path in vars(self).items()}


def tiny_flux_files(
    folder: Path,
    *,
    seed: int = 0,
    guidance: bool = True,
    dtype: torch.dtype = torch.float32,
    prefix: str = "",
    tokenizer: bool = True,
) -> FluxFiles:
    """The weights of ``tiny_flux_folder`` with the same seed, as four .safetensors and T5's tokenizer beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = FluxFiles(
        *(folder / name for name in ("flux.safetensors", "ae.safetensors", "clip.safetensors", "t5.safetensors"))
    )
    parts = tiny_flux(seed, guidance=guidance)
    save(bfl_state(parts.transformer), files.base, dtype, prefix)
    save(bfl_vae_state(parts.vae), files.vae, dtype)
    save(clip_state(parts.text_encoder), files.clip_l, dtype)
    save(t5_state(parts.text_encoder_2), files.t5, dtype)
    if tokenizer:
        t5_tokenizer_json(folder / "tokenizer.json")
    return files


def all_in_one_file(
    path: Path, *, seed: int = 0, guidance: bool = True, dtype: torch.dtype = torch.float32, tokenizer: bool = True
) -> Path:
    """One file with everything, as ComfyUI's users have them."""
    parts = tiny_flux(seed, guidance=guidance)
    state = {f"model.diffusion_model.{key}": t for key, t in bfl_state(parts.transformer).items()}
    state |= {f"vae.{key}": t for key, t in bfl_vae_state(parts.vae).items()}
    state |= {f"text_encoders.clip_l.transformer.{key}": t for key, t in clip_state(parts.text_encoder).items()}
    state |= {f"text_encoders.t5xxl.transformer.{key}": t for key, t in t5_state(parts.text_encoder_2).items()}
    state |= {f"text_encoders.{name}.logit_scale": torch.tensor(4.6) for name in ("clip_l", "t5xxl")}
    path.parent.mkdir(parents=True, exist_ok=True)
    save(state, path, dtype)
    if tokenizer:
        t5_tokenizer_json(path.parent / "tokenizer.json")
    return path


def save(state: dict[str, Tensor], path: Path, dtype: torch.dtype = torch.float32, prefix: str = "") -> Path:
    save_file({prefix + key: tensor.to(dtype).clone().contiguous() for key, tensor in state.items()}, path)
    return path


def clip_state(text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """clip_l.safetensors, with what it has beside the text encoder."""
    state = {f"text_model.{key.removeprefix('text_model.')}": t for key, t in text_encoder.state_dict().items()}
    width = text_encoder.config.hidden_size
    return state | {"logit_scale": torch.tensor(4.6), "text_projection.weight": torch.zeros(width, width)}


def t5_state(text_encoder: T5EncoderModel) -> dict[str, Tensor]:
    """t5xxl_fp16.safetensors has the table of words once."""
    return {key: t for key, t in text_encoder.state_dict().items() if key != "encoder.embed_tokens.weight"}


def bfl_vae_state(vae: AutoencoderKL) -> dict[str, Tensor]:
    levels = len(vae.config.block_out_channels)
    return {ldm_vae_key(key, levels): _as_conv(key, tensor) for key, tensor in vae.state_dict().items()}


# ---- the transformer, backwards ------------------------------------------------------------------------------------


def bfl_state(transformer: FluxTransformer2DModel) -> dict[str, Tensor]:
    """All tensors under the names that Black Forest Labs' code gives them, joined as there."""
    theirs = transformer.state_dict()
    state: dict[str, Tensor] = {}
    for key, tensor in theirs.items():
        if re.search(r"\.(to_q|add_q_proj)\.", key):
            state[_bfl_key(key)] = torch.cat([theirs[name] for name in _same_layer(key)])
        elif key.startswith("norm_out.linear."):
            half = len(tensor) // 2
            state[_bfl_key(key)] = torch.cat([tensor[half:], tensor[:half]])
        elif not re.search(r"\.(to_[kv]|add_[kv]_proj|proj_mlp)\.", key):
            state[_bfl_key(key)] = tensor
    return state


def _same_layer(key: str) -> list[str]:
    """The layers whose rows stand together, by the first of them."""
    if "add_q_proj" in key:
        return [key.replace("add_q_proj", f"add_{part}_proj") for part in "qkv"]
    names = [key.replace("to_q", f"to_{part}") for part in "qkv"]
    return [*names, key.replace("attn.to_q", "proj_mlp")] if key.startswith("single") else names


_BFL = (
    (r"^x_embedder", "img_in"),
    (r"^context_embedder", "txt_in"),
    (r"^time_text_embed\.timestep_embedder\.linear_1", "time_in.in_layer"),
    (r"^time_text_embed\.timestep_embedder\.linear_2", "time_in.out_layer"),
    (r"^time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
    (r"^time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
    (r"^time_text_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer"),
    (r"^time_text_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^proj_out", "final_layer.linear"),
    (r"^single_transformer_blocks\.(\d+)\.norm\.linear", r"single_blocks.\1.modulation.lin"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_q", r"single_blocks.\1.linear1"),
    (r"^single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"single_blocks.\1.norm.query_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"single_blocks.\1.norm.key_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.norm1\.linear", r"double_blocks.\1.img_mod.lin"),
    (r"^transformer_blocks\.(\d+)\.norm1_context\.linear", r"double_blocks.\1.txt_mod.lin"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_q", r"double_blocks.\1.img_attn.qkv"),
    (r"^transformer_blocks\.(\d+)\.attn\.add_q_proj", r"double_blocks.\1.txt_attn.qkv"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn.proj"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"double_blocks.\1.img_attn.norm.query_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"double_blocks.\1.img_attn.norm.key_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_q\.weight", r"double_blocks.\1.txt_attn.norm.query_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_k\.weight", r"double_blocks.\1.txt_attn.norm.key_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"double_blocks.\1.img_mlp.0"),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.2", r"double_blocks.\1.img_mlp.2"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"double_blocks.\1.txt_mlp.0"),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.2", r"double_blocks.\1.txt_mlp.2"),
)


def _bfl_key(key: str) -> str:
    for pattern, name in _BFL:
        renamed, count = re.subn(pattern, name, key)
        if count:
            return renamed
    raise AssertionError(key)
