"""FLUX.1 dev and schnell: what the trainer asks of them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_core.errors import UserError
from lora_core.families import flux_source
from lora_core.families.base import Components, Conditioning, Drawing, ModelSource, Target
from lora_core.families.flux_files import clip_tokenizer_folder, part_loaders
from lora_core.families.flux_keys import original_layer
from lora_core.families.latents import KlLatents
from lora_core.families.sd import TEXT_BLOCKS, projections
from lora_core.families.sd_files import load_tokenizer
from lora_core.families.source import base_path, download
from lora_core.families.t5_tokenizer import T5Words, download_tokenizer
from lora_core.flow import FlowMatching
from lora_core.settings import FluxModel, RunSettings
from lora_core.transfer import to_device

PATCH = 2
"""Latents per side that the transformer reads as one token."""
T5 = "text_encoder_2"


class FluxComponents(Components):
    """The networks of FLUX.1, T5's words, and what T5 said while it was in memory."""

    def __init__(self, loaders: Mapping[str, Callable[[], nn.Module]], *, words: T5Words, guidance: bool, **facts: Any):
        super().__init__(loaders, **facts)
        self.words = words
        self.guidance = guidance
        """Whether the transformer is told a guidance: dev yes, schnell no."""
        self.kept: dict[tuple[str, int, bool], tuple[Tensor, Tensor]] = {}
        """(1, L, C) hidden states and (1, L) mask on the CPU by prompt, length and whether T5 was given the mask."""


class Flux1(KlLatents):
    """Flow matching, a transformer on packed latents of 16 channels, told T5's words and CLIP's summary."""

    name = "flux"
    text_parts = ("text_encoder", T5)
    trainable_text_parts = ("text_encoder",)

    def load(self, model: FluxModel, *, dtype: torch.dtype, device: torch.device) -> FluxComponents:
        remote, name = flux_source.is_remote(model), model.base.strip()
        base = download(name, flux_source.PARTS.values()) if remote else base_path(model)
        source = flux_source.locate(model, base)
        words = T5Words.read(_tokenizer(model, base, source.tokenizer))
        return FluxComponents(
            part_loaders(source, dtype),
            words=words,
            guidance=source.guidance,
            device=device,
            dtype=dtype,
            source=ModelSource(name if remote else base.name, base, model.vae, "" if source.guidance else "schnell"),
            prediction_type="flow",
            tokenizers={"text_encoder": load_tokenizer(clip_tokenizer_folder(base))},
        )

    # ---- texts ---------------------------------------------------------------------------------------------------

    def encode_prompts(
        self,
        components: FluxComponents,
        prompts: Sequence[str],
        model: FluxModel,
        *,
        weighted: bool = False,
        max_token_length: int | None = None,
    ) -> Conditioning:
        """T5's hidden states, CLIP's summary of the first 75 tokens, the guidance of the settings.

        Prompts are taken literally, ``weighted`` or not: FLUX.1 reads sentences, and T5 knows no weights. The length is
        that of the settings, for the tokens T5 fills up with count, too.
        """
        rows = [_t5(components, prompt, model) for prompt in prompts]
        hidden = to_device(torch.cat([row for row, _ in rows]), components.device)
        tensors = {"hidden": hidden, "pooled": _pooled(components, prompts)}
        tensors["guidance"] = torch.full((len(prompts),), model.guidance, device=components.device)
        if model.apply_t5_attn_mask:
            tensors["mask"] = to_device(torch.cat([mask for _, mask in rows]), components.device)
        return Conditioning(tensors)

    def keep_frozen_texts(
        self, components: FluxComponents, prompts: Iterable[str], model: FluxModel
    ) -> Iterator[tuple[int, int]]:
        """Encode the prompts of a run with T5, which is never trained, and give its memory back."""
        prompts = sorted(set(prompts))
        for done, prompt in enumerate(prompts, start=1):
            components.kept[_key(prompt, model)] = tuple(t.cpu() for t in _t5(components, prompt, model))
            yield done, len(prompts)
        components.free(T5)

    def tokens_cut(self, components: FluxComponents, prompt: str, *, max_token_length: int) -> int:
        """As T5 counts, whose end mark takes one place."""
        return max(0, len(components.words.tokens(prompt)) + 1 - max_token_length)

    # ---- the transformer -----------------------------------------------------------------------------------------

    def predict(
        self,
        components: FluxComponents,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        conditioning: Conditioning,
        frames_B6: Tensor | None = None,
    ) -> Tensor:
        dtype, (height, width) = components.dtype, noisy_BCHW.shape[2:]
        hidden = conditioning.hidden.to(dtype)
        ids = image_ids(height // PATCH, width // PATCH, noisy_BCHW.device)
        answer = components.denoiser(
            hidden_states=pack(noisy_BCHW.to(dtype)),
            timestep=timesteps_B / 1000,
            guidance=conditioning["guidance"].to(noisy_BCHW.device) if components.guidance else None,
            pooled_projections=conditioning["pooled"].to(dtype),
            encoder_hidden_states=hidden,
            txt_ids=torch.zeros(hidden.shape[1], 3, device=hidden.device),
            img_ids=ids,
            joint_attention_kwargs=_attention(conditioning, len(ids)),
            return_dict=False,
        )[0]
        return unpack(answer, height, width)

    def noise_process(self, components: FluxComponents, settings: RunSettings | None = None) -> FlowMatching:
        if settings is None:
            return FlowMatching(shifts_with_size=components.guidance)
        noise = settings.noise
        return FlowMatching(
            sampling=noise.timestep_sampling,
            sigmoid_scale=noise.sigmoid_scale,
            shift=noise.discrete_flow_shift,
            logit_mean=noise.logit_mean,
            logit_std=noise.logit_std,
            min_timestep=noise.min_timestep,
            max_timestep=noise.max_timestep,
            shifts_with_size=components.guidance,
        )

    def adapter_targets(
        self, components: FluxComponents, *, text_parts: Collection[str], convolutions: bool = False
    ) -> list[Target]:
        """The names of Black Forest Labs, which all programs read. There are no convolutions."""
        targets = _clip_targets(components.text_encoder) if "text_encoder" in text_parts else []
        for path, module in components.denoiser.named_modules():
            if isinstance(module, nn.Linear) and (layer := original_layer(path)):
                targets.append(Target(f"lora_unet_{layer.replace('.', '_')}", module, "unet"))
        return targets

    def drawing(self, components: FluxComponents) -> Drawing:
        factor = components.vae_factor
        channels = components.vae_config.latent_channels
        return Drawing(channels=channels, factor=factor, multiple=PATCH * factor, side=1024, distilled=True)


def _tokenizer(model: FluxModel, base: Path, found: Path | None) -> Path:
    if found is None and model.allow_download:
        return download_tokenizer()
    if found is None:
        place = model.t5 or base
        raise UserError("t5.no_tokenizer", folder=place if place.is_dir() else place.parent)
    return found


# ---- texts -----------------------------------------------------------------------------------------------------------


def _key(prompt: str, model: FluxModel) -> tuple[str, int, bool]:
    return prompt, model.t5_max_token_length, model.apply_t5_attn_mask


@torch.no_grad()
def _t5(components: FluxComponents, prompt: str, model: FluxModel) -> tuple[Tensor, Tensor]:
    """(1, L, C) hidden states and (1, L) where there are words. Every prompt by itself: its last bits are its own."""
    if (kept := components.kept.get(_key(prompt, model))) is not None:
        return kept
    encoder = components.part(T5)
    ids, mask = components.words.rows([prompt], model.t5_max_token_length)
    if components.words.size > encoder.config.vocab_size and int(ids.max()) >= encoder.config.vocab_size:
        raise UserError("t5.other_tokenizer", size=components.words.size, vocabulary=encoder.config.vocab_size)
    given = mask.to(components.device) if model.apply_t5_attn_mask else None
    return encoder(ids.to(components.device), attention_mask=given).last_hidden_state.to(components.dtype), mask


def _pooled(components: FluxComponents, prompts: Sequence[str]) -> Tensor:
    """(B, C): CLIP's output at the end mark of the first 75 tokens."""
    ids = torch.cat([components.chunker.rows(prompt, 1) for prompt in prompts])
    return components.text_encoder(input_ids=to_device(ids, components.device)).pooler_output


def _clip_targets(text_encoder: nn.Module) -> list[Target]:
    """The names keep ``text_model_``, which every program expects and newer transformers have dropped."""
    return [
        Target(f"lora_te1_text_model_{path.removeprefix('text_model.').replace('.', '_')}", module, "text_encoder")
        for path, module in projections(text_encoder, TEXT_BLOCKS)
    ]


# ---- latents as tokens -----------------------------------------------------------------------------------------------


def pack(latents_BCHW: Tensor) -> Tensor:
    """(B, H/2 * W/2, C * 4): two by two latents are one token, channel first, then row and column."""
    b, c, h, w = latents_BCHW.shape
    return latents_BCHW.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unpack(tokens_BLC: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W): the reverse of ``pack`` for latents of a size."""
    b, _, c = tokens_BLC.shape
    grid = tokens_BLC.view(b, height // 2, width // 2, c // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, height, width)


def image_ids(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, 3) float32: 0, row and column of each token."""
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)[None]
    return ids.view(-1, 3)


def _attention(conditioning: Conditioning, tokens: int) -> dict[str, Tensor] | None:
    """(B, 1, 1, L + tokens) which places of text and picture may be looked at, where padding is to be left out."""
    if "mask" not in conditioning.tensors:
        return None
    mask = conditioning["mask"]
    return {"attention_mask": torch.cat([mask, mask.new_ones(len(mask), tokens)], 1)[:, None, None]}
