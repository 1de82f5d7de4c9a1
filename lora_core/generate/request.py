"""What is to be drawn, checked before a model is loaded. Torch-free."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.families.source import base_path
from lora_core.generate.tags import Worn, tagged, text_of, worn
from lora_core.io.headers import identify
from lora_core.io.kinds import FAMILY_NAMES
from lora_core.merge.blocks import parse
from lora_core.settings import AnyModel, RunSettings, Sd1Model
from lora_core.settings.generate import GenerateSettings, PictureSettings


@dataclass(frozen=True)
class Shot:
    """One picture, with everything that decides how it looks but the model."""

    prompt: str
    """As the person wrote it, tags and all."""
    loras: tuple[Worn, ...]
    negative: str
    width: int | None
    height: int | None
    seed: int
    steps: int
    guidance: float
    sampler: str

    @property
    def text(self) -> str:
        return text_of(self.prompt)


def shot(prompt: str, seed: int, settings: PictureSettings) -> Shot:
    """A prompt, its tags written out already, as the settings have it drawn."""
    return Shot(
        prompt=prompt,
        loras=worn(prompt, settings),
        negative=settings.negative,
        width=settings.width,
        height=settings.height,
        seed=seed,
        steps=settings.steps,
        guidance=settings.guidance,
        sampler=settings.sampler,
    )


def prompts(settings: PictureSettings) -> list[str]:
    """Those that say anything. Raises UserError when none does."""
    found = [prompt.strip() for prompt in settings.prompts if prompt.strip()]
    if not found:
        raise UserError("preview.no_prompt")
    return found


def seeds(settings: PictureSettings) -> list[int]:
    """One for each picture of a prompt; after the largest comes 0."""
    return [(settings.seed + number) % 2**32 for number in range(settings.count)]


def shots(settings: GenerateSettings) -> list[Shot]:
    """The pictures of a job, prompt by prompt. Raises UserError for what can't be drawn."""
    wanted = [tagged(prompt, settings.loras) for prompt in prompts(settings)]
    return [shot(prompt, seed, settings) for prompt in wanted for seed in seeds(settings)]


def model_of(settings: PictureSettings) -> AnyModel:
    """The model of the settings, of the family that its file tells. Raises UserError for a file that is no model."""
    kind = identify(base_path(Sd1Model(base=settings.base)))
    values = {"family": kind.family, "base": settings.base, "vae": settings.vae}
    if kind.family not in ("sd1", "sd2", "sdxl", "flux"):
        raise UserError("model.is_unknown", path=kind.path)
    if kind.family == "flux":
        values |= {"clip_l": settings.clip_l, "t5": settings.t5}
    if kind.family in ("sd1", "sd2"):
        values["clip_skip"] = settings.clip_skip
    return RunSettings.model_validate({"model": values}).model


def check_loras(loras: Iterable[Worn], model: AnyModel) -> None:
    """Raises UserError for a file that is missing, no LoRA, or for another family than the model's."""
    for path in dict.fromkeys(lora.path for lora in loras):
        require_lora(path, model)
    for lora in loras:
        parse(lora.layers, model.family)


def require_lora(path: Path, model: AnyModel) -> None:
    kind = identify(path)
    if kind.kind != "lora":
        raise UserError("lora.not_a_lora", path=path)
    if kind.family not in (model.family, "unknown"):
        names = {"family": FAMILY_NAMES[kind.family], "base_family": FAMILY_NAMES[model.family]}
        raise UserError("generate.lora_family", name=path.name, base=Path(model.base).name, **names)
