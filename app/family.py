"""The model type follows the file: what its header says, and what is said where the settings differ."""

from html import escape
from typing import Any

from app.form import Values, choose_variant
from app.i18n import say
from lora_core.errors import UserError
from lora_core.families.source import base_path
from lora_core.i18n import Language
from lora_core.io.headers import identify
from lora_core.settings import ModelSettings, RunSettings
from lora_core.settings.fields import choice_label, unions_of

PATH = "model.family"
_MODELS = ("checkpoint", "unet")


def found_family(base: Any) -> str | None:
    """The family that the header of a model file or folder tells; None for what is none, or none that we train."""
    try:
        kind = identify(base_path(ModelSettings(base=base)))
    except (UserError, ValueError, OSError):
        return None
    return kind.family if kind.kind in _MODELS and kind.family in unions_of()["model"] else None


def followed(values: Values) -> dict[str, Any]:
    """What changes on the page so that the model type is that of the file; nothing where it is, or nobody knows."""
    family = found_family(values.get("model.base") or "")
    if family is None or family == values.get(PATH):
        return {}
    changed = choose_variant({**values, PATH: family}, "model")
    return {path: value for path, value in changed.items() if value != values.get(path)}


def family_name(family: Any, language: Language) -> str:
    return choice_label(PATH, family, language)


def preset_differs(settings: RunSettings, language: Language) -> str:
    """What to say after a preset for another family than the file's; empty where they agree."""
    found = found_family(settings.model.base)
    if found is None or found == settings.model.family:
        return ""
    wanted = family_name(settings.model.family, language)
    return say("family.preset", language, wanted=wanted, family=family_name(found, language))


def family_line(settings: RunSettings, language: Language) -> str:
    """The line below the model's card: what was found, and whether the settings agree."""
    found = found_family(settings.model.base)
    if found is None:
        return ""
    name = family_name(found, language)
    if found == settings.model.family:
        return f'<div class="kb-card-family">{escape(say("family.found", language, family=name))}</div>'
    words = say("family.differs", language, family=name, wanted=family_name(settings.model.family, language))
    return f'<div class="kb-card-family kb-differs" role="status">{escape(words)}</div>'
