"""Train the text encoder and the U-Net together, from noise to latents, as Stable Diffusion 1.x does."""

import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mini_model import captions
from mini_model.autoencoder import cosine_rate, save

logger = logging.getLogger(__name__)

WIDTH = 128
"""Width of the text encoder, and so of the U-Net's cross-attention."""
EMPTY_SHARE = 0.10
"""Share of empty captions, which classifier-free guidance needs."""
STRANGER_SHARE = 0.15
"""Share of captions with one unrelated token put in: words the model never learnt are then ignored ("usu bear")."""
SNR_LIMIT = 5.0


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def make_text_encoder() -> CLIPTextModel:
    """CLIP's text model in small: 2 layers; 6.3 of its 6.7 M parameters are the embedding of the full vocabulary."""
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return CLIPTextModel(config)


def make_unet() -> UNet2DConditionModel:
    """SD 1.x's U-Net in small, 7.4 M parameters; 8 heads, which SD 1.x writes as attention_head_dim."""
    torch.manual_seed(2)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="epsilon",
    )


class Denoiser(nn.Module):
    """Text encoder and U-Net as one module, so that optimizer, average and checkpoint hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder()
        self.unet = make_unet().to(memory_format=torch.channels_last)

    def forward(self, noisy_BCHW: Tensor, timesteps_B: Tensor, ids_BT: Tensor) -> Tensor:
        text = self.text_encoder(ids_BT).last_hidden_state
        return self.unet(noisy_BCHW, timesteps_B, text).sample


def min_snr_weight(alphas_cumprod_B: Tensor) -> Tensor:
    """Weight of an epsilon loss, min(SNR, limit) / SNR: Hang et al. 2023, arXiv 2303.09556, section 3.4."""
    snr = alphas_cumprod_B / (1 - alphas_cumprod_B)
    return snr.clamp(max=SNR_LIMIT) / snr


def insert_stranger(ids: list[int], rng: random.Random) -> list[int]:
    """The token ids with one random token before or among the words."""
    end = ids.index(49407)
    place = rng.randint(1, end)
    return [*ids[:place], rng.randrange(49406), *ids[place:-1]]


def batches(encoded: dict, tokenizer: CLIPTokenizer, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (latents of unit std, token ids) from step `start` on; a step's batch depends on its number only."""
    latents = encoded["latents"]
    step = start
    while True:
        rng = random.Random(step)
        picks = [rng.randrange(len(latents)) for _ in range(batch_size)]
        texts = [
            captions.make_caption(encoded["names"][i], encoded["colours"][i], encoded["backgrounds"][i], rng)
            if rng.random() >= EMPTY_SHARE
            else ""
            for i in picks
        ]
        rows = tokenizer(texts, padding="max_length", truncation=True).input_ids
        rows = [insert_stranger(row, rng) if rng.random() < STRANGER_SHARE else row for row in rows]
        yield latents[picks].float() / encoded["std"], torch.tensor(rows)
        step += 1


def teach_words(text_encoder: CLIPTextModel, encoded: dict, tokenizer: CLIPTokenizer, *, steps: int = 300) -> None:
    """Teach the text encoder alone to tell captions apart: from its end token, guess the picture's coarse latents.

    A minute of this spares the denoiser its first hundreds of steps, in which it ignores a text that says nothing yet.
    """
    head = nn.Linear(WIDTH, 4 * 4 * 4)
    parameters = [*text_encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for step, (latents, ids) in enumerate(batches(encoded, tokenizer, 32, 0)):
        if step >= steps:
            break
        optimizer.param_groups[0]["lr"] = cosine_rate(step / steps, 2e-3)
        target = F.avg_pool2d(latents, 4).flatten(1)
        hidden = text_encoder(ids).last_hidden_state
        first_end = (ids == 49407).int().argmax(1)
        ends = torch.stack([hidden[torch.arange(len(ids)), first_end], hidden[:, -1]])
        loss = (head(ends) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            logger.info("words %d/%d loss %.4f of %.4f", step + 1, steps, loss, target.var())


def diffusion_errors(
    model: nn.Module, scheduler: DDIMScheduler, latents_BCHW: Tensor, ids_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared error of the predicted noise at random timesteps, and its min-SNR weight, both (B,)."""
    noise = torch.randn_like(latents_BCHW)
    timesteps = torch.randint(0, 1000, (len(latents_BCHW),))
    noisy = scheduler.add_noise(latents_BCHW, noise, timesteps).contiguous(memory_format=torch.channels_last)
    error = (model(noisy, timesteps, ids_BT) - noise).square().mean((1, 2, 3))
    return error, min_snr_weight(scheduler.alphas_cumprod[timesteps])


def train(
    encoded: dict,
    tokenizer: CLIPTokenizer,
    checkpoint: Path,
    *,
    steps: int,
    batch_size: int = 16,
    peak_rate: float = 1e-3,
) -> None:
    """Train up to `steps`, resuming from `checkpoint` and saving there every 250 steps.

    In fp32: at this size bf16 autocast on a CPU costs more in conversions than it saves.
    """
    model, scheduler = Denoiser(), make_scheduler()
    ema = EMAModel(model.parameters(), decay=0.998, foreach=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    else:
        teach_words(model.text_encoder, encoded, tokenizer)
        ema = EMAModel(model.parameters(), decay=0.998, foreach=True)
    clock, recent = time.monotonic(), []
    for step, (latents, ids) in enumerate(batches(encoded, tokenizer, batch_size, start), start):
        if step >= steps:
            break
        torch.manual_seed(step)
        optimizer.param_groups[0]["lr"] = cosine_rate(step / steps, peak_rate)
        error, weight = diffusion_errors(model, scheduler, latents, ids)
        optimizer.zero_grad()
        (error * weight).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.step(model.parameters())
        recent.append(error.mean().item())
        if (step + 1) % 50 == 0:
            speed = (time.monotonic() - clock) / (step + 1 - start)
            logger.info("denoiser %d/%d loss %.4f %.2f s/step", step + 1, steps, sum(recent) / len(recent), speed)
            recent.clear()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save(checkpoint, model, ema, optimizer, step + 1)


def load(checkpoint: Path) -> Denoiser:
    """The averaged weights of a checkpoint."""
    model = Denoiser()
    ema = EMAModel(model.parameters())
    ema.load_state_dict(torch.load(checkpoint, weights_only=True)["ema"])
    ema.copy_to(model.parameters())
    return model.eval().requires_grad_(False)
