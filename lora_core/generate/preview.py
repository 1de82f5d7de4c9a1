"""Pictures drawn with a merge that is not saved yet."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, StageChanged
from lora_core.generate.draw import draw, save_png
from lora_core.generate.loras import layers_of
from lora_core.generate.prompts import SamplePrompt
from lora_core.generate.shelf import Shelf
from lora_core.io.kinds import FAMILY_NAMES, Family
from lora_core.merge.combine import combined, load_sources, merged_vectors, opened_base
from lora_core.merge.lowrank import LowRank
from lora_core.runs import RunFolder, job_name
from lora_core.settings import RunSettings, SampleSettings, TrainSettings
from lora_core.settings.tools import PreviewSettings
from lora_core.train.device import choose_device

STRENGTHS: Mapping[int, Sequence[float]] = {1: (0.0, 0.5, 1.0, 1.5), 2: (0.0, 1.0)}
"""Number of prompts -> strengths each is drawn with; more prompts are drawn with the whole LoRA only."""
MOST_PICTURES = 4
DRAWN: tuple[Family, ...] = ("sd1", "sd2", "sdxl")
"""Families whose layers are, one by one, those of the files. (Those of FLUX.1 are fused in files, not in the model.)"""


def preview(settings: PreviewSettings, run: RunFolder, shelf: Shelf | None = None) -> Iterator[EventBase]:
    """Draws up to four pictures into the run's folder. Raises UserError where the base and the LoRAs do not fit."""
    prompts = [prompt for prompt in settings.prompts if prompt.strip()][:MOST_PICTURES]
    if not prompts:
        raise UserError("preview.no_prompt")
    yield StageChanged(stage="reading")
    sources = load_sources(settings.merge.loras)
    family = sources[0].file.family
    if family not in DRAWN:
        known = ", ".join(FAMILY_NAMES[name] for name in DRAWN)
        raise UserError("preview.family", family=FAMILY_NAMES[family], known=known)
    results = combined(settings.merge, sources, opened_base(settings.merge.base))
    changes = {layer: change for _, _, layer, change in results if change is not None}
    yield StageChanged(stage="loading_model")
    model = RunSettings.model_validate({"model": {"family": family, "base": settings.base}}).model
    device = choose_device(TrainSettings())
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    jobs = [(prompt, strength) for prompt in prompts for strength in STRENGTHS.get(len(prompts), (1.0,))]
    with (shelf or Shelf()).studio(model, device, dtype) as studio:
        modules = layers_of(studio.family, studio.components)
        check_fit(changes, modules, settings.base)
        biases = {layer: vectors for layer, vectors in merged_vectors(sources).items() if layer in modules}
        for number, (prompt, strength) in enumerate(jobs):
            yield StageChanged(stage="drawing", done=number, total=len(jobs))
            with added(modules, changes, biases, strength):
                defaults = SampleSettings(prompts=prompt)
                picture = draw(
                    studio.family, studio.components, request(prompt, settings), defaults, model, on_step=studio.goes_on
                )
            path = save_png(picture, run.path / f"preview_{number:02d}.png")
            shown = f"{prompt} <lora:{job_name(settings.merge)}:{strength:g}>"
            facts = {"prompt": shown, "index": number, "strength": strength, "seed": picture.seed}
            yield FileSaved(path=path, kind="picture", facts=facts)
    yield StageChanged(stage="drawing", done=len(jobs), total=len(jobs))


def request(prompt: str, settings: PreviewSettings) -> SamplePrompt:
    return SamplePrompt(
        prompt,
        width=settings.width,
        height=settings.height,
        seed=settings.seed,
        guidance=settings.guidance,
        steps=settings.steps,
    )


def check_fit(changes: Mapping[str, LowRank], modules: Mapping[str, nn.Module], base: str) -> None:
    """Raises UserError for a layer that the base model does not have, or has in another size."""
    for layer, change in changes.items():
        if layer not in modules:
            raise UserError("preview.no_layer", layer=layer, base=base)
        weight = modules[layer].weight
        if weight.shape[0] != change.shape[0] or weight.numel() != weight.shape[0] * change.down.shape[1]:
            raise UserError("preview.no_layer", layer=layer, base=base)


@contextmanager
def added(
    modules: Mapping[str, nn.Module],
    changes: Mapping[str, LowRank],
    vectors: Mapping[str, Mapping[str, object]],
    strength: float,
) -> Iterator[None]:
    """The model with the changes in its weights; afterwards its weights are the very ones from before."""
    before: list[tuple[nn.Parameter, Tensor]] = []

    def add(parameter: nn.Parameter, change: Tensor) -> None:
        before.append((parameter, parameter.data))
        whole = parameter.data.float() + strength * change.to(parameter.device).float().view(parameter.shape)
        parameter.data = whole.to(before[-1][1].dtype)

    try:
        if strength:
            for layer, change in changes.items():
                product = torch.from_numpy(change.up).float() @ torch.from_numpy(change.down).float()
                add(modules[layer].weight, product)
            for layer, own in vectors.items():
                for kind, vector in own.items():
                    target = modules[layer].weight if kind == "w_norm" else getattr(modules[layer], "bias", None)
                    if target is not None:
                        add(target, torch.as_tensor(vector))
        yield
    finally:
        for parameter, data in reversed(before):
            parameter.data = data
