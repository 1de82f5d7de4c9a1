"""One line that always says what will be trained: model, algorithm, modules of each part, steps, size of the file."""

from html import escape

from app.family import family_name
from app.i18n import say
from app.live import Look, size_words
from app.words import denoiser_name
from lora_core.checks import has_no_rank
from lora_core.estimate import Estimate, estimate
from lora_core.families.source import BUILT_IN
from lora_core.i18n import Language
from lora_core.settings import RunSettings

NAMES = {"lora": "LoRA", "locon": "LoCon", "loha": "LoHa", "lokr": "LoKr", "dora": "DoRA", "oft": "OFT"}
"""Short names of algorithms; another is called as the settings call it."""


def summary_html(look: Look, language: Language) -> str:
    """The footer: "SDXL LoRA rank 16: U-Net 722 + text encoders 264 modules · about 218 MB", then steps and images."""
    known = None if look.settings.model.base.strip() == BUILT_IN else estimate(look.settings)
    parts = [trained_words(look.settings, known, language)]
    if known and known.size:
        parts.append(say("summary.size", language, size=size_words(known.size)))
    first = f'<span class="kb-trained">{escape(" · ".join(parts))}</span>'
    return f'<span class="kb-steps">{_steps(look, language)}{first}</span>'


def trained_words(settings: RunSettings, known: Estimate | None, language: Language) -> str:
    """What is trained. The built-in model is smaller than the tables say, so it is told without numbers."""
    network = settings.network
    rank = say("summary.full", language) if has_no_rank(network) else say("summary.rank", language, rank=network.rank)
    parts = _parts(settings, known, language)
    if known:
        parts = say("summary.modules", language, parts=parts)
    return say(
        "summary.trained",
        language,
        family=family_name(settings.model.family, language),
        algo=NAMES.get(network.algo, network.algo),
        rank=rank,
        parts=parts,
    )


def _parts(settings: RunSettings, known: Estimate | None, language: Language) -> str:
    denoiser = denoiser_name(settings.model.family, language)
    if known is None:
        text = [say("summary.text_encoder", language)] if settings.train.train_text_encoder else []
        return " + ".join([denoiser, *text])
    parts = [f"{denoiser} {known.modules.get('unet', 0):,}"]
    if known.text_encoders:
        several = "text_encoder_2" in known.modules
        name = say("summary.text_encoders" if several else "summary.text_encoder", language)
        parts.append(f"{name} {known.text_encoders:,}")
    return " + ".join(parts)


def _steps(look: Look, language: Language) -> str:
    """Steps, images and epochs; nothing while there are no pictures."""
    plan = look.found.plan
    if plan is None or not plan.total_steps:
        return ""
    images = say("steps.images", language, images=plan.train_images)
    steps = say("steps.steps", language, steps=plan.total_steps)
    epochs = say("steps.epochs" if plan.epochs != 1 else "steps.epoch_one", language, epochs=plan.epochs)
    return f"<b>{escape(steps)}</b> <span>{escape(images)} · {escape(epochs)}</span>"
