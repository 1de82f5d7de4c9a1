"""Our LoRA against peft's on the attention blocks of Stable Diffusion 1.5, forward and backward, one process.

    python benchmarks/adapter_micro.py [--device cuda] [--threads 1] [--pixels 256] [--rank 16]

Both wrap the same frozen block in the same number format. peft runs as diffusers' training scripts run it (float32
adapters, autocast in half precision). Runs alternate and the fastest counts. With one thread the processor's own time
is taken, which other work on the machine hardly changes; otherwise the clock on the wall.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from lora_core.adapters import AdapterNetwork
from lora_core.settings import LoraSettings

LEVELS = ((320, 8), (640, 16), (1280, 32))
"""Channels and pixels per latent side of the levels that have attention."""
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]


def block(channels: int, dtype: torch.dtype, device: str) -> Transformer2DModel:
    torch.manual_seed(0)
    model = Transformer2DModel(8, channels // 8, channels, cross_attention_dim=768)
    return model.to(device, dtype, memory_format=torch.channels_last).requires_grad_(False)


def with_peft(model: nn.Module, rank: int) -> nn.Module:
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, init_lora_weights=False), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    return model


def with_ours(model: nn.Module, rank: int) -> nn.Module:
    targets = [
        SimpleNamespace(name=f"lora_unet_{path.replace('.', '_')}", module=module, part="unet")
        for path, module in model.named_modules()
        if path.endswith(tuple(TARGETS))
    ]
    network = AdapterNetwork.create(targets, LoraSettings(rank=rank, alpha=rank), seed=0).attach()
    for adapter in network:
        nn.init.normal_(adapter.up, std=0.02)
    model.network = network
    return model


def step(model: nn.Module, autocast: bool, inputs: tuple) -> Callable[[], None]:
    x, text = inputs

    def run() -> None:
        with torch.autocast(x.device.type, x.dtype) if autocast else nullcontext():
            y = model(x, encoder_hidden_states=text).sample
        y.float().square().mean().backward()
        for parameter in model.parameters():
            parameter.grad = None
        x.grad = None

    return run


def measure(runs: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, float]:
    """Milliseconds of each, the fastest of ``repeats``."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            started = clock()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], 1000 * (clock() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, {options.pixels} px", end=", ")
    print(f"rank {options.rank}; ms forward and backward")
    print("format     channels  tokens    base    peft    ours  peft/ours")
    for dtype in (torch.float32, torch.bfloat16):
        for channels, factor in LEVELS:
            side = options.pixels // factor
            ms = level(channels, side, dtype, options)
            times = "".join(f"{value:8.1f}" for value in ms.values())
            print(f"{str(dtype)[6:]:9} {channels:9} {side * side:7} {times} {ms['peft'] / ms['ours']:10.2f}")


def level(channels: int, side: int, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of one attention block."""
    inputs = (
        torch.randn(1, channels, side, side, dtype=dtype, device=options.device, requires_grad=True),
        torch.randn(1, 77, 768, dtype=dtype, device=options.device, requires_grad=True),
    )
    base, peft, ours = (block(channels, dtype, options.device) for _ in range(3))
    runs = {
        "base": step(base, False, inputs),
        "peft": step(with_peft(peft, options.rank), dtype != torch.float32, inputs),
        "ours": step(with_ours(ours, options.rank), False, inputs),
    }
    return measure(runs, options.repeats, options.device)


if __name__ == "__main__":
    main()
