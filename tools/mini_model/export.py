"""Write the model as a diffusers folder in fp16, and draw contact sheets with it."""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from mini_model import autoencoder, denoiser

SHEET_PROMPTS = (
    "bear", "a bear", "cat", "dog", "panda", "koala", "rabbit", "fox",
    "heart", "star", "rocket", "apple", "car", "cake", "flower", "penguin",
    "green bear", "bear, blue background", "usu bear", "blue heart", "smiley face", "moon", "tiger", "house",
)  # fmt: skip


def make_pipeline(work: Path, tokenizer_folder: Path, latent_std: float) -> StableDiffusionPipeline:
    """The averaged weights of both checkpoints as one pipeline; scaling_factor brings latents to unit std."""
    refined = work / "decoder.pt"
    vae = autoencoder.load(refined if refined.exists() else work / "vae.pt")
    vae.register_to_config(scaling_factor=round(1 / latent_std, 5))
    model = denoiser.load(work / "denoiser.pt")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=denoiser.make_tokenizer(tokenizer_folder),
        unet=model.unet,
        scheduler=denoiser.make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(pipeline: StableDiffusionPipeline, folder: Path, tokenizer_folder: Path) -> None:
    """Replace `folder` by the pipeline in fp16 safetensors; a README.md already there stays.

    The tokenizer is copied as vocab.json and merges.txt, which is half the size of what save_pretrained writes.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(temporary, safe_serialization=True)
    name_as_sd1(temporary / "text_encoder/model.safetensors")
    shutil.rmtree(temporary / "tokenizer")
    shutil.copytree(tokenizer_folder, temporary / "tokenizer")
    readme = folder / "README.md"
    if readme.exists():
        shutil.copy(readme, temporary / readme.name)
    for file in temporary.rglob("*.safetensors"):
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def name_as_sd1(weights: Path) -> None:
    """Give the text encoder's tensors the prefix "text_model." of every SD 1.x file; transformers 5 leaves it out."""
    tensors = load_file(weights)
    prefix = "text_model."
    save_file({prefix + name.removeprefix(prefix): value for name, value in tensors.items()}, weights, {"format": "pt"})


def load(folder: Path) -> StableDiffusionPipeline:
    """The exported model in fp32, as a user would load it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None, local_files_only=True, torch_dtype=torch.float32
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    steps: int = 30,
    guidance: float = 4.0,
    size: int = 64,
) -> list[Image.Image]:
    """One picture per prompt and seed: as many of one as of the other, or one for all."""
    count = max(len(prompts), len(seeds))
    prompts = list(prompts) if len(prompts) == count else [prompts[0]] * count
    seeds = list(seeds) if len(seeds) == count else [seeds[0]] * count
    return pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        height=size,
        width=size,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images


def sheet(images: Sequence[Image.Image], labels: Sequence[str], columns: int = 8, cell: int = 128) -> Image.Image:
    """The pictures in a grid with their prompts below."""
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * cell, rows * (cell + 14)), "white")
    pen = ImageDraw.Draw(page)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = index % columns * cell, index // columns * (cell + 14)
        page.paste(image.resize((cell - 4, cell - 4), Image.Resampling.BICUBIC), (left, top))
        pen.text((left + 2, top + cell - 3), label, fill="black")
    return page
