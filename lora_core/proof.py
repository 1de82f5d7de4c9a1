"""Does a LoRA do anything? Pictures with it and without it from the same seed, and how far the model's answers move.

Programs that load a LoRA pass over what they cannot place, and a file of zeros loads like any other: the picture is
then the base model's, and nobody is told. Here every module of the file is looked for in the model, and what is in
place is measured as over-fitting is (``train/validation.py``): the relative distance of the predictions with the LoRA
from those without it, at fixed noise and fixed timesteps. The noisy latents are those of the base model's pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, ProofDone, StageChanged
from lora_core.generate.draw import evaluating
from lora_core.generate.job import facts_of, next_number
from lora_core.generate.loras import layers_of
from lora_core.generate.picture import save_png
from lora_core.generate.request import Shot, check_loras, model_of, seeds, shot
from lora_core.generate.shelf import Shelf
from lora_core.generate.studio import Studio
from lora_core.generate.tags import tagged, text_of
from lora_core.inspect.header import inspect_header
from lora_core.merge.lora import LoraFile, load_lora
from lora_core.merge.names import split_key
from lora_core.noise import NoiseProcess
from lora_core.runs import RunFolder
from lora_core.settings import NoiseSettings
from lora_core.settings.generate import LoraUse, ProofSettings
from lora_core.train.randomness import generator
from lora_core.train.validation import DRIFT_PICTURES, States, answers, relative_distance, timestep_grid

EXAMPLES = 8
"""Names of modules that are told."""
TAGS = 2
"""Of the words a LoRA was trained on, so many make the prompt when none is given."""
NOT_OF_ADAPTERS = {"weight", "alpha"}
"""A module with nothing else is a piece of a model, not of a LoRA."""


def proof(settings: ProofSettings, run: RunFolder | None = None, shelf: Shelf | None = None) -> Iterator[EventBase]:
    """Yields the pictures, where there is a folder for them, and a ProofDone.

    Raises UserError for a model or LoRA that can't be read.
    """
    yield StageChanged(stage="checking")
    if settings.lora is None:
        raise UserError("merge.no_lora")
    model = model_of(settings)
    plain, worn = both_shots(settings)
    check_loras(worn[0].loras, model)
    file = load_lora(settings.lora)
    yield StageChanged(stage="loading_model")
    with (shelf or Shelf()).studio(model) as studio:
        found = fit(file, layers_of(studio.family, studio.components))
        done = told(found, settings)
        if found.can_be_measured:
            studio.swap.left_out = frozenset(found.lost)
            folder = settings.output or (run.path if run is not None else None)
            yield from _measured(studio, plain, worn, settings, folder, done)
    yield done


# ---- what the file is in this model ----------------------------------------------------------------------------------


@dataclass
class Fit:
    """The modules of a file, by what becomes of them."""

    working: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Not in the model, or of another size there."""
    broken: list[str] = field(default_factory=list)
    """With NaN or infinity."""

    @property
    def modules(self) -> int:
        return len(self.working) + len(self.zero) + len(self.lost) + len(self.broken)

    @property
    def can_be_measured(self) -> bool:
        return bool(self.working) and not self.broken


def fit(file: LoraFile, layers: Mapping[str, nn.Module]) -> Fit:
    """Looks for every module of the file among the model's layers."""
    found = Fit(lost=nameless(file))
    needs_base, vectors = set(file.needs_base()), file.vectors()
    for name, parts in file.layers.items():
        module = layers.get(name)
        if not all(np.isfinite(values).all() for part in parts for values in part.tensors.values()):
            found.broken.append(name)
            continue
        size = None if module is None else _size(file, name, module, base=name in needs_base)
        added = any(np.any(vector) for vector in vectors.get(name, {}).values())
        kind = found.lost if size is None else found.working if size or added else found.zero
        kind.append(name)
    return found


def nameless(file: LoraFile) -> list[str]:
    """Modules, as the file spells them, that no model of the family has."""
    tensors: dict[str, set[str]] = {}
    for key in file.junk:
        if split := split_key(key):
            tensors.setdefault(split[0], set()).add(split[1])
    return [name for name, own in tensors.items() if own - NOT_OF_ADAPTERS]


def _size(file: LoraFile, name: str, module: nn.Module, *, base: bool) -> float | None:
    """Frobenius norm of the change of a weight, 0 where only vectors are changed; None where it does not fit."""
    if file.algorithm(name) == "norm":
        return 0.0
    weight = module.weight
    assert isinstance(weight, Tensor)
    try:
        change = file.change(name, weight.data.float().cpu().numpy() if base else None)
    except UserError:
        return None
    fits = weight.shape[0] == change.shape[0] and weight.numel() == int(np.prod(change.shape, dtype=np.int64))
    return change.norm() if fits else None


def told(found: Fit, settings: ProofSettings) -> ProofDone:
    assert settings.lora
    return ProofDone(
        name=settings.lora.name,
        strength=settings.strength,
        modules=found.modules,
        lost=len(found.lost),
        lost_names=found.lost[:EXAMPLES],
        broken=len(found.broken),
        broken_names=found.broken[:EXAMPLES],
        zero=len(found.zero),
    )


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def both_shots(settings: ProofSettings) -> tuple[list[Shot], list[Shot]]:
    """The pictures without the LoRA and with it; other LoRAs that prompts name are left out of both."""
    assert settings.lora
    wanted = [prompt for prompt in settings.prompts if prompt.strip()] or [proposed_prompt(settings.lora)]
    bare = settings.model_copy(update={"loras": [], "folders": []})
    use = settings.model_copy(update={"loras": [LoraUse(path=settings.lora, strength=settings.strength)]})
    texts = [(text_of(prompt), seed) for prompt in wanted for seed in seeds(settings)]
    return (
        [shot(text, seed, bare) for text, seed in texts],
        [shot(tagged(text, use.loras), seed, use) for text, seed in texts],
    )


def proposed_prompt(lora: Path) -> str:
    """The trigger words that the file tells, or the words it was trained on most; else nothing."""
    header = inspect_header(lora)
    return " ".join((header.trigger_words or ", ".join(tag.name for tag in header.tags[:TAGS]))[:200].split())


@dataclass
class _Seen:
    """The model in one state: what it drew, and what it says about noise."""

    pixels: list[np.ndarray] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    """(1, C, H, W) float32."""
    answers: dict[str, list[Tensor]] = field(default_factory=dict)
    """Prompt -> (N, C, H, W) predictions for each of the pictures asked about."""


def _measured(
    studio: Studio,
    plain: Sequence[Shot],
    worn: Sequence[Shot],
    settings: ProofSettings,
    folder: Path | None,
    done: ProofDone,
) -> Iterator[EventBase]:
    """Draws both ways, asks both ways, and fills the numbers in."""
    before, after = _Seen(), _Seen()
    first = next_number(folder) if folder is not None else 0
    prompts = asked_prompts(plain, settings)
    for shots, seen in ((plain, before), (worn, after)):
        with_lora = seen is after
        for number, one in enumerate(shots):
            yield StageChanged(stage="drawing", done=number + with_lora * len(plain), total=2 * len(plain))
            picture = studio.draw(one, on_latents=seen.latents.append)
            seen.pixels.append(np.asarray(picture.image, np.float32))
            if folder is not None:
                name = f"{first + number:05d}-{one.seed}-{'with' if with_lora else 'without'}.png"
                facts = facts_of(one, 2 * number + with_lora) | {"with_lora": with_lora}
                yield FileSaved(path=save_png(picture, folder / name), kind="picture", facts=facts)
        yield StageChanged(stage="computing")
        # Always about the base model's pictures, so that only the model differs.
        seen.answers = asked(studio, before.latents[:DRIFT_PICTURES], prompts, settings.timesteps)
    done.pixels, done.latents = difference(before.pixels, after.pixels), difference(before.latents, after.latents)
    moved = {prompt: distance(after.answers[prompt], before.answers[prompt]) for prompt in prompts}
    unrelated = [moved[prompt] for prompt in unrelated_prompts(settings)]
    done.own, done.class_prompt = moved[plain[0].text], moved[settings.class_prompt.strip()]
    done.unrelated = sum(unrelated) / len(unrelated) if unrelated else None


# ---- how far it moves ------------------------------------------------------------------------------------------------


def asked_prompts(plain: Sequence[Shot], settings: ProofSettings) -> list[str]:
    """The first prompt drawn, the class and the unrelated ones, each once."""
    return list(dict.fromkeys([plain[0].text, settings.class_prompt.strip(), *unrelated_prompts(settings)]))


def unrelated_prompts(settings: ProofSettings) -> list[str]:
    return [line.strip() for line in settings.unrelated_prompts.splitlines() if line.strip()]


@torch.no_grad()
def asked(studio: Studio, latents: Sequence[Tensor], prompts: Sequence[str], levels: int) -> dict[str, list[Tensor]]:
    """What the model as it is now predicts for each prompt at the noisy latents."""
    family, components = studio.family, studio.components
    noise = family.noise_process(components)
    states = [noisy(noise, x0_1CHW, levels, number) for number, x0_1CHW in enumerate(latents)]
    found: dict[str, list[Tensor]] = {}
    with evaluating(components):
        for prompt in prompts:
            conditioning = family.encode_prompts(components, [prompt], studio.model, weighted=True)
            found[prompt] = [answers(family, components, one, conditioning).cpu() for one in states]
    return found


def noisy(noise: NoiseProcess, x0_1CHW: Tensor, levels: int, number: int) -> States:
    """A picture at all noise levels, with noise that depends on its number alone."""
    t_N = timestep_grid(noise, x0_1CHW[0], NoiseSettings(), levels)
    drawn_NCHW = torch.randn((levels, *x0_1CHW.shape[1:]), generator=generator(0, "proof", number))
    epsilon_NCHW = drawn_NCHW.to(x0_1CHW.device)
    x0_NCHW = x0_1CHW.expand_as(epsilon_NCHW)
    target = noise.target(x0_NCHW, epsilon_NCHW, t_N)
    return States(noise.add_noise(x0_NCHW, epsilon_NCHW, t_N), target, t_N, None, None)


def distance(moved: Sequence[Tensor], base: Sequence[Tensor]) -> float:
    """Mean of the relative distances at all pictures and noise levels."""
    pairs = [relative_distance(p, p0) for p, p0 in zip(moved, base, strict=True)]
    return sum(pairs) / len(pairs)


def difference(first: Sequence[np.ndarray | Tensor], second: Sequence[np.ndarray | Tensor]) -> float:
    """Mean absolute difference, pictures counting alike."""
    means = [float(abs(a - b).mean()) for a, b in zip(first, second, strict=True)]
    return sum(means) / len(means)
