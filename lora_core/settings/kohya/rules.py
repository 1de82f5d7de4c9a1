"""Keys that belong together or mean something else here: families, network, learning rates, length and seed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.values import NotReadable, as_field, is_empty, number, same

FAMILIES: Mapping[str, str] = {
    "v2": "sd2",
    "sdxl": "sdxl",
    "flux1_checkbox": "flux",
    "sd3_checkbox": "sd3",
    "hunyuan_image_checkbox": "hunyuan_image",
    "anima_checkbox": "anima",
    "lumina_checkbox": "lumina",
}
"""Key of the GUI -> the family as we call it."""

ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "Standard": ("lora",),
    "Kohya LoCon": ("locon", "lora"),
    "LyCORIS/LoCon": ("locon", "lora"),
    "Kohya LoHa": ("loha",),
    "LyCORIS/LoHa": ("loha",),
    "Kohya LoKr": ("lokr",),
    "LyCORIS/LoKr": ("lokr",),
    "Kohya DyLoRA": ("dylora",),
    "LyCORIS/DyLoRA": ("dylora",),
    "LyCORIS/GLoRA": ("glora",),
    "LyCORIS/iA3": ("ia3",),
    "LyCORIS/Diag-OFT": ("oft", "diag-oft"),
    "LyCORIS/BOFT": ("boft",),
    "Flux1": ("lora",),
    "Flux1 OFT": ("oft",),
    "LoRA-FA": ("lora_fa",),
}
"""LoRA type of the GUI -> what is the same here, the best first."""

RANK_WITHOUT = 4
"""What sd-scripts takes for network_dim when it is not given."""


def family(draft: Draft) -> None:
    """The boxes that choose a training script. Here the model's file tells its family."""
    field = draft.field("model.family")
    for key, name in FAMILIES.items():
        if not draft.flag(key):
            draft.idle(key)
        elif field and name in field.choices:
            draft.mapped(key, "model.family", name)
        else:
            draft.unsupported(key, "todo.family")


def network(draft: Draft) -> None:
    """LoRA type, rank and alpha."""
    kind = draft.text("LoRA_type") or "Standard"
    field = draft.field("network.algo")
    wanted = ALGORITHMS.get(kind, ())
    if kind == "LyCORIS/LoCon" and draft.flag("dora_wd"):  # a switch there, an algorithm of its own here
        wanted = ("dora", *wanted)
    known = next((name for name in wanted if field and name in field.choices), None)
    if known == "dora":
        draft.mapped("dora_wd", "network.algo", known)
    if known is None:
        draft.unsupported("LoRA_type", "todo.algorithm")
    elif known == "lora" and kind.endswith("LoCon") and not draft.has_field_for("conv_dim"):
        draft.differs("LoRA_type", "why.no_conv", "network.algo", known)
    else:
        draft.mapped("LoRA_type", "network.algo", known)
    rank = draft.whole("network_dim") or RANK_WITHOUT
    draft.mapped("network_dim", "network.rank", rank)
    alpha = draft.number("network_alpha")
    if not draft.is_in_variant("network.alpha"):
        draft.idle("network_alpha", "why.other_variant")
        return
    if draft.was_dropped("network_alpha"):
        draft.differs("network_alpha", "why.alpha_dropped", "network.alpha", 1.0)
    elif not alpha:
        draft.differs("network_alpha", "why.alpha_zero", "network.alpha", float(rank))
    else:
        low = alpha * 4 <= rank
        values = {"scale": f"{alpha / rank:.3g}"} if low else {}
        draft.mapped("network_alpha", "network.alpha", alpha, "why.alpha_scale" if low else "", **values)


def rates(draft: Draft) -> None:
    """Learning rates. A rate of 0 does not train that part; the GUI's 0 for both means the common rate."""
    base = draft.number("learning_rate")
    unet, encoder = draft.number("unet_lr"), _first(draft, "text_encoder_lr")
    none_given = draft.dialect == "gui" and not unet and not encoder
    unet_only = draft.flag("network_train_unet_only") or (not none_given and encoder == 0)
    if draft.was_dropped("text_encoder_lr") and unet:
        unet_only = True
    encoder_only = (
        draft.flag("network_train_text_encoder_only") or unet == 0 or (draft.was_dropped("unet_lr") and encoder)
    )
    _base_rate(draft, base, unet, encoder or (1.0 if unet_only else None))
    if encoder_only and not none_given and not unet_only:
        draft.unsupported("network_train_text_encoder_only", "todo.unet_off")
        draft.unsupported("unet_lr", "todo.unet_off")
    draft.mapped("unet_lr", "train.unet_lr", unet or None, "" if unet else "why.base_rate")
    if not unet_only:
        draft.mapped("network_train_unet_only", "train.train_text_encoder", True)
        draft.mapped("text_encoder_lr", "train.text_encoder_lr", encoder or None, "" if encoder else "why.base_rate")
    else:
        if "network_train_unet_only" in draft.given:
            draft.differs("network_train_unet_only", "why.unet_only", "train.train_text_encoder", False)
        if encoder:
            draft.idle("text_encoder_lr", "why.unet_only_rate")
        else:
            draft.differs("text_encoder_lr", "why.unet_only", "train.train_text_encoder", False)
    draft.changes["train.train_text_encoder"] = not unet_only
    draft.idle("network_train_text_encoder_only")


def _base_rate(draft: Draft, base: float | None, unet: float | None, encoder: float | None) -> None:
    if not base:
        draft.differs("learning_rate", "why.no_rate", "train.learning_rate", unet or encoder or 2e-6)
    elif unet and encoder:
        draft.mapped("learning_rate", "train.learning_rate", base, "why.rate_unused")
    elif draft.was_dropped("learning_rate"):
        draft.differs("learning_rate", "why.dropped", "train.learning_rate", base, default=base)
    else:
        draft.mapped("learning_rate", "train.learning_rate", base)


def _first(draft: Draft, key: str) -> float | None:
    """The first of several rates; SD and SDXL use no other."""
    value = draft.value(key)
    if isinstance(value, list) and value:
        value = value[0]
    try:
        return number(value)
    except NotReadable:
        draft.unsupported(key, "why.unreadable")
        return None


def length(draft: Draft) -> None:
    """Which of the three limits Kohya obeys: max_train_epochs, then max_train_steps, then (in the GUI) epoch."""
    epochs, epoch = draft.whole("max_train_epochs"), draft.whole("epoch")
    steps = draft.whole("max_train_steps")
    if draft.dialect == "gui" and (draft.was_dropped("max_train_steps") or "max_train_steps" not in draft.given):
        steps = None  # the GUI then works it out from epoch
    if epochs:
        draft.mapped("max_train_epochs", "train.epochs", epochs)
        draft.idle("max_train_steps", "why.epochs_win")
        draft.idle("epoch", "why.epochs_win")
        draft.changes["train.max_train_steps"] = None
    elif steps:
        draft.mapped("max_train_steps", "train.max_train_steps", steps, "why.steps_win" if epoch else "")
        draft.idle("max_train_epochs")
        needed = _epochs_for(draft, steps)
        if draft.given.get("epoch"):
            draft.differs("epoch", "why.epoch_unused", "train.epochs", max(needed, epoch or 1), steps=steps)
        draft.changes["train.epochs"] = max(needed, epoch or 1)
    else:
        left_out = draft.dialect == "gui" and "max_train_steps" not in draft.given
        draft.mapped("epoch", "train.epochs", epoch or 1, "why.steps_left_out" if left_out else "")
        draft.idle("max_train_steps", "why.no_steps")
        draft.idle("max_train_epochs")
        draft.changes["train.max_train_steps"] = None


def _epochs_for(draft: Draft, steps: int) -> int:
    """Epochs that are enough for so many steps. An epoch has at least one step; more are known if the images are here."""
    field = draft.field("train.epochs")
    most = int(field.maximum) if field and field.maximum else steps
    return min(math.ceil(steps / (steps_per_epoch(draft) or 1)), most)


def steps_per_epoch(draft: Draft) -> int | None:
    """The least number of steps an epoch can have, counted from the images; None where it can't be read."""
    from lora_core.data.folders import scan  # imports the settings
    from lora_core.settings.base import clean_path
    from lora_core.settings.dataset import DatasetSettings

    name = "dataset_config" if draft.text("dataset_config") else "train_data_dir"
    place = clean_path(draft.text(name))
    if not place or not draft.may_read(Path(place)) or not Path(place).exists():
        return None
    found = scan(DatasetSettings(**{"config" if name == "dataset_config" else "train_dir": Path(place)}))
    samples = sum(subset.repeats * len(subset.images) for subset in found.train)
    batch, accumulation = draft.whole("train_batch_size") or 1, draft.whole("gradient_accumulation_steps") or 1
    return math.ceil(math.ceil(samples / max(batch, 1)) / max(accumulation, 1)) or None


def seed(draft: Draft) -> None:
    """The GUI can't train with seed 0: it takes a new one each time, as for an empty field."""
    if draft.was_dropped("seed"):
        zero = not is_empty(str(draft.given["seed"].value))
        draft.differs("seed", "why.seed_zero" if zero else "why.seed_empty", "train.seed", None)
    else:
        draft.mapped("seed", "train.seed", draft.whole("seed"))


def precision(draft: Draft) -> None:
    """Number formats. sd-scripts saves in full precision unless told otherwise."""
    draft.mapped("save_precision", "save.save_precision", draft.text("save_precision") or "float")
    wanted = draft.text("mixed_precision") or "no"
    field = draft.field("train.mixed_precision")
    if field and wanted in field.choices:
        draft.mapped("mixed_precision", "train.mixed_precision", wanted)
    else:
        draft.unsupported("mixed_precision", "todo.fp8")


def plain(draft: Draft, key: str, path: str) -> None:
    """A key that one of our fields takes as it is."""
    field = draft.field(path)
    assert field is not None
    value = draft.value(key)
    try:
        result: Any = as_field(value, field)
    except NotReadable:
        choices = ", ".join(str(choice) for choice in field.choices)
        default = field.default
        reason = "why.no_choice" if choices else "why.unreadable"
        draft.unsupported(key, reason, **({"choices": choices, "default": default} if choices else {}))
        return
    if (is_empty(value) or same(value, 0)) and result == field.default:
        draft.changes[path] = result
        draft.idle(key)
        return
    dropped = draft.was_dropped(key) and not is_empty(value) and not isinstance(draft.given[key].value, bool)
    if dropped:
        draft.differs(key, "why.dropped", path, result, default=value)
    else:
        draft.mapped(key, path, result)
