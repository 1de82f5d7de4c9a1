"""Networks on the tiny model of tests/models.py."""

from types import SimpleNamespace

import torch
from torch import nn

from lora_core.adapters import AdapterNetwork
from lora_core.families.base import Target
from lora_core.settings import LoraSettings
from tests.models import TinyParts, tiny_parts


def targets_of(parts: TinyParts, *, text_encoder: bool = True) -> list[Target]:
    """The layers that LoRAs of Stable Diffusion 1 are put on, found here by the kinds of their surroundings."""
    found = []
    if text_encoder:
        found += _inside(parts.text_encoder, ("CLIPAttention", "CLIPMLP"), "text_encoder", "lora_te_text_model_")
    return found + _inside(parts.unet, ("Transformer2DModel",), "unet", "lora_unet_")


def _inside(model: nn.Module, kinds: tuple[str, ...], part: str, prefix: str) -> list[Target]:
    return [
        Target(prefix + f"{outer}.{inner}".removeprefix("text_model.").replace(".", "_"), layer, part)
        for outer, block in model.named_modules()
        if type(block).__name__ in kinds
        for inner, layer in block.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]


def randomise(network: AdapterNetwork, seed: int = 0, size: float = 0.2) -> AdapterNetwork:
    """Gives every up matrix numbers, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for adapter in network:
        adapter.up.data.normal_(0, size, generator=generator)
    return network


def make_network(targets: list[Target], seed: int = 0, **settings) -> AdapterNetwork:
    return AdapterNetwork.create(targets, LoraSettings(**({"rank": 4, "alpha": 2.0} | settings)), seed)


def run_model(parts: TinyParts, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The U-Net's answer to a fixed input, through the text encoder."""
    generator = torch.Generator().manual_seed(11)
    tokens = torch.randint(0, 1000, (2, 77), generator=generator)
    noisy = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
    conditioning = parts.text_encoder(tokens)[0]
    return parts.unet(noisy, torch.tensor([10, 700]), conditioning).sample


def frozen_parts() -> TinyParts:
    parts = tiny_parts()
    for model in (parts.unet, parts.text_encoder, parts.vae):
        model.requires_grad_(False)
    return parts


def make_tiny() -> SimpleNamespace:
    """The tiny model, its targets and a trained-looking network on it, not yet attached."""
    parts = frozen_parts()
    targets = targets_of(parts)
    return SimpleNamespace(parts=parts, targets=targets, network=randomise(make_network(targets)))
