"""One model with and without a LoRA: pictures side by side, and the measures of compare.py."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lora_core.adapters import AdapterNetwork
from lora_core.data.buckets import Buckets
from lora_core.data.captions import read_caption
from lora_core.data.images import image_size
from lora_core.data.pixels import load_pixels
from lora_core.demo.compare import denoising_loss, drift
from lora_core.families import FAMILIES
from lora_core.families.base import Components, ModelFamily
from lora_core.generate.draw import draw
from lora_core.generate.prompts import SamplePrompt
from lora_core.io.safetensors import read_tensors
from lora_core.settings import RunSettings


@dataclass
class Experiment:
    """A loaded model and a LoRA on it that can be switched on and off."""

    settings: RunSettings
    family: ModelFamily
    components: Components
    network: AdapterNetwork

    @classmethod
    def load(cls, settings: RunSettings, lora: Path) -> "Experiment":
        """The source model of the settings, in float32 on the processor, with the LoRA attached."""
        family = FAMILIES[settings.model.family]
        components = family.load(settings.model, dtype=torch.float32, device=torch.device("cpu"))
        targets = family.adapter_targets(components, text_parts=family.trainable_text_parts, convolutions=True)
        network = AdapterNetwork.from_kohya(targets, read_tensors(lora))
        network.eval()
        return cls(settings, family, components, network)

    @contextmanager
    def switched(self, on: bool) -> Iterator[None]:
        """Inside, the LoRA is attached or the model is the base, bit for bit."""
        if on:
            self.network.attach()
        try:
            yield
        finally:
            if on:
                self.network.detach()

    @torch.no_grad()
    def predict(self, noisy_BCHW: Tensor, timesteps_B: Tensor, prompts: Sequence[str], *, on: bool) -> Tensor:
        model = self.settings.model
        with self.switched(on):
            conditioning = self.family.encode_prompts(self.components, prompts, model)
            return self.family.predict(self.components, noisy_BCHW, timesteps_B, conditioning)

    def latents_of(self, folder: Path) -> list[tuple[Tensor, str]]:
        """Scaled latents (C, H, W) and caption of every picture in a folder, at the training size."""
        buckets = Buckets.of(self.settings.dataset)
        found = []
        for path in sorted(folder.glob("*.png")):
            pixels = load_pixels(path, buckets.choose(*image_size(path)))
            mean, _ = self.family.encode_images(self.components, pixels[None])
            caption = path.with_suffix(".txt")
            text = read_caption(caption).text if caption.is_file() else ""
            found.append((self.family.scale_latents(self.components, mean)[0], text))
        return found

    def numbers(self, heldout: Path, class_pictures: Path, class_prompt: str) -> dict[str, float]:
        """Denoising loss on pictures of the subject that training never saw, and drift on the class it must keep."""
        alphas = self.family.noise_process(self.components).alpha_bar
        pictures = self.latents_of(heldout)
        latents = [latent for latent, _ in self.latents_of(class_pictures)[:12]]

        def base(x, t, prompts):
            return self.predict(x, t, prompts, on=False)

        def tuned(x, t, prompts):
            return self.predict(x, t, prompts, on=True)

        return {
            "heldout_loss_before": denoising_loss(base, pictures, alphas),
            "heldout_loss_after": denoising_loss(tuned, pictures, alphas),
            "class_drift": drift(tuned, base, class_prompt, latents, alphas),
        }

    def picture(self, prompt: str, seed: int, *, on: bool) -> Image.Image:
        with self.switched(on):
            request = SamplePrompt(text=prompt, seed=seed)
            return draw(self.family, self.components, request, self.settings.sample, self.settings.model).image

    def sheet(self, prompts: Sequence[str], seeds: Sequence[int], titles: tuple[str, str]) -> Image.Image:
        """Without and with the LoRA side by side: a row for each prompt, the same seeds on both sides."""
        rows = [
            (prompt, [[self.picture(prompt, seed, on=on) for seed in seeds] for on in (False, True)])
            for prompt in prompts
        ]
        return compose(rows, titles)


CELL, GAP, LABEL, HEAD = 128, 6, 26, 34


def compose(rows: Sequence[tuple[str, list[list[Image.Image]]]], titles: tuple[str, str]) -> Image.Image:
    """Two blocks of pictures beside each other under their titles, the prompt above each row."""
    columns = len(rows[0][1][0])
    block = columns * (CELL + GAP)
    sheet = Image.new("RGB", (2 * block + 5 * GAP, HEAD + len(rows) * (CELL + LABEL + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for side, title in enumerate(titles):
        pen.text((2 * GAP + side * (block + GAP), 8), title, fill="black", font=ImageFont.load_default(18))
    for row, (prompt, blocks) in enumerate(rows):
        top = HEAD + row * (CELL + LABEL + GAP)
        pen.text((2 * GAP, top + 4), prompt, fill="#555555", font=ImageFont.load_default(15))
        for side, pictures in enumerate(blocks):
            for column, picture in enumerate(pictures):
                left = 2 * GAP + side * (block + GAP) + column * (CELL + GAP)
                sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top + LABEL))
    return sheet
