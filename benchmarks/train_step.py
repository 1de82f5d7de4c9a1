"""Seconds per training step and peak memory: Kumakobo against a plain diffusers + peft loop.

Both train the same LoRA (every attention layer of the U-Net and the text encoder, same rank) on the same random model,
latents and captions, each in a process of its own, several rounds in turn so that a busy machine is fair to both.

    python benchmarks/train_step.py --model sd15 --size 256 --steps 6
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

VARIANTS = ("kumakobo", "peft")
RANK = 16


def main() -> None:
    arguments = parser().parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for name in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    report(arguments, found)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=("sd15", "small"), default="small", help="SD 1.5 or the built-in model")
    p.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--steps", type=int, default=6, help="measured steps, after two to warm up")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--precision", choices=("bf16", "no"), default="bf16")
    p.add_argument("--gradient-checkpointing", action="store_true")
    p.add_argument("--unet-only", action="store_true", help="do not train the text encoder")
    p.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    return p


def report(arguments: argparse.Namespace, found: dict[str, list[dict]]) -> None:
    best = {name: min(run["seconds"] for run in runs) for name, runs in found.items()}
    memory = {name: max(run["peak_gb"] for run in runs) for name, runs in found.items()}
    device = found["peft"][0]["device"]
    print(f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, {arguments.precision}, {device}")
    for name in VARIANTS:
        print(f"  {name:9} {best[name]:7.3f} s/step   peak {memory[name]:6.2f} GB")
    print(f"  speed ratio {best['peft'] / best['kumakobo']:.2f} x")
    print(f"  memory ratio {memory['kumakobo'] / memory['peft']:.2f}")


def measure(arguments: argparse.Namespace) -> dict:
    """Median seconds of a step, and the peak memory of the device (of the process on a CPU)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    step = {"kumakobo": kumakobo_step, "peft": peft_step}[arguments.variant](arguments, device)
    seconds = []
    for index in range(arguments.steps + 2):
        begin = time.perf_counter()
        step(index)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"seconds": statistics.median(seconds[2:]), "peak_gb": peak / 2**30, "device": name}


# ---- The model, the same for both --------------------------------------------------------------------------------


def random_parts(arguments: argparse.Namespace, dtype: torch.dtype, device: torch.device):
    """U-Net and text encoder with small random weights, frozen. The VAE is not needed: latents are cached."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    if arguments.model == "sd15":
        unet_config = {"cross_attention_dim": 768, "sample_size": 64}
        text_config = {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
        }
    else:
        unet_config = {
            "cross_attention_dim": 128,
            "block_out_channels": (96, 160, 224),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        }
        text_config = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config).to(dtype)
        text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **text_config)).to(
            dtype
        )
    for module in (unet, text_encoder):
        module.to_empty(device=device).requires_grad_(False)
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.02)
        for name, buffer in module.named_buffers():
            if "position_ids" in name:
                buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return unet, text_encoder


def inputs(arguments: argparse.Namespace, index: int, device: torch.device, factor: int):
    """Latents (B, 4, h, w), token ids (B, 77), timesteps (B,)."""
    random = torch.Generator().manual_seed(index)
    side = arguments.size // factor
    latents = torch.randn(arguments.batch, 4, side, side, generator=random).to(device)
    tokens = torch.randint(0, 49406, (arguments.batch, 77), generator=random).to(device)
    return latents, tokens, torch.randint(0, 1000, (arguments.batch,), generator=random).to(device)


def factor_of(arguments: argparse.Namespace) -> int:
    return 8 if arguments.model == "sd15" else 4


# ---- The two loops -----------------------------------------------------------------------------------------------


def kumakobo_step(arguments: argparse.Namespace, device: torch.device) -> Callable[[int], None]:
    from accelerate import Accelerator

    from lora_core.data.dataset import Batch
    from lora_core.families import FAMILIES
    from lora_core.families.base import Components, ModelSource
    from lora_core.families.sd_files import load_tokenizer
    from lora_core.plan import Plan
    from lora_core.settings import RunSettings
    from lora_core.train.device import DTYPES
    from lora_core.train.files import Retention
    from lora_core.train.session import Session, build_network, build_optimizer, prepare_model, rate_factor, train_step

    settings = RunSettings(
        network={"rank": RANK, "alpha": RANK},
        optimizer={"name": "AdamW"},
        schedule={"name": "constant"},
        train={
            "train_batch_size": arguments.batch,
            "gradient_checkpointing": arguments.gradient_checkpointing,
            "train_text_encoder": not arguments.unet_only,
        },
    )
    unet, text_encoder = random_parts(arguments, DTYPES[arguments.precision], device)
    components = Components.of(
        {"unet": unet.eval(), "text_encoder": text_encoder.eval()},
        device=device,
        dtype=DTYPES[arguments.precision],
        source=ModelSource("random", Path("random")),
        tokenizers={"text_encoder": load_tokenizer(None)},
    )
    family = FAMILIES["sd1"]
    prepare_model(settings, family, components)
    plan = Plan((), (), 0, {}, arguments.batch, 1, 1000, 1, None)
    network = build_network(settings, family, components, seed=0)
    accelerator = Accelerator(cpu=device.type == "cpu")

    def batch(epoch: int, index: int) -> Batch:
        latents, _, _ = inputs(arguments, epoch, torch.device("cpu"), factor_of(arguments))
        captions = [f"usu bear {epoch}, on a blue background"] * arguments.batch
        return Batch(captions, torch.ones(arguments.batch), [], latents, torch.zeros_like(latents))

    family_with_scale = _WithoutVae(family)
    session = Session(
        settings=settings,
        family=family_with_scale,
        components=components,
        network=network,
        feed=batch,
        data_facts=None,
        plan=plan,
        noise=family.noise_process(components),
        accelerator=accelerator,
        optimizer=build_optimizer(settings, network, accelerator, plan),
        rate=rate_factor(settings, plan),
        precision=arguments.precision,
        seed=0,
        retention=Retention(None),
    )
    return lambda index: train_step(session, index)


class _WithoutVae:
    """The family, with latents already scaled: there is no VAE to ask."""

    def __init__(self, family):
        self._family = family

    def __getattr__(self, name):
        return getattr(self._family, name)

    def scale_latents(self, _components, latents):
        return latents


def peft_step(arguments: argparse.Namespace, device: torch.device) -> Callable[[int], None]:
    """The loop of diffusers' own text-to-image LoRA example, in short."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    dtype = {"bf16": torch.bfloat16, "no": torch.float32}[arguments.precision]
    unet, text_encoder = random_parts(arguments, dtype, device)
    unet.add_adapter(
        LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=r".*attentions.*(proj_in|proj_out|to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2)",
        )
    )
    modules = [unet]
    if not arguments.unet_only:
        names = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
        text_encoder.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names))
        modules.append(text_encoder)
    cast_training_params(modules, dtype=torch.float32)
    if arguments.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    accelerator = Accelerator(mixed_precision=arguments.precision, cpu=device.type == "cpu")
    unet, optimizer = accelerator.prepare(unet, optimizer)
    if not arguments.unet_only:
        text_encoder = accelerator.prepare(text_encoder)
    unet.train()

    def step(index: int) -> None:
        latents, tokens, timesteps = inputs(arguments, index, device, factor_of(arguments))
        latents = latents.to(dtype)
        noise = torch.randn_like(latents)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        hidden = text_encoder(tokens, return_dict=False)[0]
        prediction = unet(noisy, timesteps, hidden.to(dtype), return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(prediction.float(), noise.float())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
