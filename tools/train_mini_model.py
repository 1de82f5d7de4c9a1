"""Train the built-in mini base model: a Stable Diffusion 1.x in small, on Noto emoji pictures (Apache-2.0).

    python tools/train_mini_model.py --work-dir ../mini

The stages (fetch, vae, denoiser, decoder, export) run in turn. Each resumes where it was stopped; `export` may be run
at any time, also while the denoiser trains, and draws contact sheets into the work folder.
"""

import argparse
import logging
from pathlib import Path

import torch
from mini_model import autoencoder, denoiser, export, latents, pictures

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "lora_core/families/bundled/clip_tokenizer"
MODEL = ROOT / "lora_core/demo/mini_model"
STAGES = ("fetch", "vae", "denoiser", "decoder", "export")


def train_vae(args: argparse.Namespace) -> None:
    files = [emoji.file for emoji in pictures.list_emoji(args.work_dir)]
    model = autoencoder.make_autoencoder()
    autoencoder.train(model, pictures.load_rgba(files), args.work_dir / "vae.pt", steps=args.vae_steps)


def refine_decoder(args: argparse.Namespace) -> None:
    """Go on with the decoder alone; the latents, and so the denoiser, stay valid."""
    files = [emoji.file for emoji in pictures.list_emoji(args.work_dir)]
    model = autoencoder.load_for_decoder(args.work_dir / "vae.pt")
    checkpoint = args.work_dir / "decoder.pt"
    autoencoder.train(model, pictures.load_rgba(files), checkpoint, steps=args.decoder_steps, peak_rate=1e-3)


def train_denoiser(args: argparse.Namespace) -> None:
    vae = autoencoder.load(args.work_dir / "vae.pt")
    encoded = latents.prepare(args.work_dir, vae, variants=args.variants)
    tokenizer = denoiser.make_tokenizer(TOKENIZER)
    denoiser.train(encoded, tokenizer, args.work_dir / "denoiser.pt", steps=args.steps)


def export_model(args: argparse.Namespace) -> None:
    std = torch.load(args.work_dir / "latents.pt", weights_only=True)["std"]
    export.write(export.make_pipeline(args.work_dir, TOKENIZER, std), args.out, TOKENIZER)
    pipeline = export.load(args.out)
    for seed in (0, 1):
        images = export.draw(pipeline, export.SHEET_PROMPTS, seeds=[seed])
        export.sheet(images, export.SHEET_PROMPTS).save(args.work_dir / f"sheet-{seed}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="downloads, checkpoints and contact sheets")
    parser.add_argument("--out", type=Path, default=MODEL, help="where the exported model goes")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--vae-steps", type=int, default=5000)
    parser.add_argument("--decoder-steps", type=int, default=1200)
    parser.add_argument("--variants", type=int, default=20, help="augmented forms of each picture")
    parser.add_argument("--steps", type=int, default=4200, help="steps of the text encoder and U-Net")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if "fetch" in args.stages:
        pictures.fetch(args.work_dir)
    if "vae" in args.stages:
        train_vae(args)
    if "denoiser" in args.stages:
        train_denoiser(args)
    if "decoder" in args.stages:
        refine_decoder(args)
    if "export" in args.stages:
        export_model(args)


if __name__ == "__main__":
    main()
