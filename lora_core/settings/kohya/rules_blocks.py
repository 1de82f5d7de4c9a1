"""Kohya's settings for single blocks and layers, in the language of layer weights; LoRAs merged into the base first."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from lora_core import base_weights
from lora_core.errors import UserError
from lora_core.io.kinds import Family
from lora_core.merge.blocks import names
from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.values import loosely

_RATES = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
_DIMS = {
    "block_dims": "network.block_ranks",
    "block_alphas": "network.block_alphas",
    "conv_block_dims": "network.block_conv_ranks",
    "conv_block_alphas": "network.block_conv_alphas",
}
_SDXL_EXTRA = 23
"""Numbers of block_dims for SDXL: embeddings, 9 blocks in, 3 in the middle, 9 out, and the last layer."""


def blocks(draft: Draft) -> None:
    """Rates and sizes of the U-Net's blocks."""
    family = _family(draft)
    if family is None:
        return
    _rates(draft, family)
    for key, path in _DIMS.items():
        if draft.text(key) and draft.field(path) and draft.is_in_variant(path):
            found = _listed(draft, key, family)
            if found is not None:
                draft.mapped(key, path, _text(found))
    _alphas_beside(draft, "block_dims", "network.block_alphas", "network.alpha")
    _alphas_beside(draft, "conv_block_dims", "network.block_conv_alphas", "network.conv_alpha")


def patterns(draft: Draft) -> None:
    """regex=value, the first match counts in both. A rate is a factor of the U-Net's here."""
    base = draft.changes.get("train.unet_lr") or draft.changes.get("train.learning_rate") or 1.0
    for key, path in (("network_reg_dims", "network.block_ranks"), ("network_reg_lrs", "network.block_lrs")):
        text = draft.text(key)
        if not text:
            continue
        try:
            found = _pairs(text)
        except ValueError:
            draft.unsupported(key, "why.unreadable")
            continue
        if path == "network.block_lrs":
            found = [(pattern, value / base) for pattern, value in found]
        else:
            alpha = draft.changes.get("network.alpha", 1.0)
            _prepend(draft, "network.block_alphas", [(pattern, alpha) for pattern, value in found if value])
        _prepend(draft, path, found)
        draft.mapped(key, path, draft.changes[path])


def merged_first(draft: Draft) -> None:
    """base_weights and their multipliers, 1 where there is none."""
    value = draft.value("base_weights")
    files = [str(one) for one in value] if isinstance(value, list) else _files(loosely(value))
    if not files:
        return
    multipliers = [
        _number(word) for word in re.split(r"[\s,]+", _joined(draft.value("base_weights_multiplier"))) if word
    ]
    given = dict(enumerate(multipliers))
    strengths = [given.get(number) for number in range(len(files))]
    sources = [
        base_weights.BaseWeights(Path(file), 1.0 if strength is None else strength)
        for file, strength in zip(files, strengths, strict=True)
    ]
    text = base_weights.written(sources)
    try:
        base_weights.parse(text)
    except UserError:
        draft.unsupported("base_weights", "why.unreadable")
        return
    draft.mapped("base_weights", "network.base_weights", text)
    draft.mapped("base_weights_multiplier", "network.base_weights", text)


def _files(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=\.safetensors)[\s,]+", text.strip()) if part.strip()]


def _joined(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else loosely(value)


def _family(draft: Draft) -> Family | None:
    """Of the families whose blocks these keys count; None for others."""
    if draft.flag("sdxl"):
        return "sdxl"
    other = ("flux1_checkbox", "sd3_checkbox", "hunyuan_image_checkbox", "anima_checkbox", "lumina_checkbox")
    return None if any(draft.flag(key) for key in other) else "sd1"


def _rates(draft: Draft, family: Family) -> None:
    keys = [key for key in _RATES if draft.text(key)]
    if not keys:
        return
    threshold = _number(draft.text("block_lr_zero_threshold") or "0")
    found: dict[str, float] = {}
    for key in keys:
        blocks = _side(family, key)
        count = 3 if family == "sdxl" and key == "mid_lr_weight" else len(blocks)
        values = _weights(draft.text(key), count)
        if values is None or threshold is None:
            draft.unsupported(key, "why.unreadable")
            continue
        values = [value if value > threshold else 0.0 for value in values]
        found |= dict(zip(blocks, values[1:2] if count == 3 else values, strict=True))
    text = _text({block: value for block, value in found.items() if value != 1})
    for key in keys:
        draft.mapped(key, "network.block_lrs", text)
    if draft.text("block_lr_zero_threshold"):
        draft.mapped("block_lr_zero_threshold", "network.block_lrs", text)


def _side(family: Family, key: str) -> list[str]:
    kind = {"down_lr_weight": "IN", "mid_lr_weight": "MID", "up_lr_weight": "OUT"}[key]
    return [block for block in names(family) if block.startswith(kind)]


def _weights(text: str, count: int) -> list[float] | None:
    """Numbers, filled up with 1 or cut, or one of sd-scripts' curves, "cosine+0.1"."""
    curve, _, base = text.partition("+")
    if curve.strip() in _CURVES:
        low = _number(base or "0")
        last = max(count - 1, 1)
        return None if low is None else [_CURVES[curve.strip()](i / last) + low for i in range(count)]
    values = [_number(word) for word in re.split(r"[\s,]+", text.strip("[] ,")) if word]
    if any(value is None for value in values):
        return None
    return [*(value for value in values if value is not None), *[1.0] * count][:count]


_CURVES = {
    "cosine": lambda x: math.sin(math.pi * (1 - x) / 2),
    "sine": lambda x: math.sin(math.pi * x / 2),
    "linear": lambda x: x,
    "reverse_linear": lambda x: 1 - x,
    "zeros": lambda x: 0.0,
}
"""Along the blocks of a side, x from 0 to 1."""


def _listed(draft: Draft, key: str, family: Family) -> dict[str, float] | None:
    """Sizes of the blocks, in the model's order."""
    blocks = [block for block in names(family) if block != "BASE"]
    values = [_number(word) for word in re.split(r"[\s,]+", draft.text(key).strip("[] ,")) if word]
    numbers = [value for value in values if value is not None]
    if family == "sdxl" and len(numbers) == _SDXL_EXTRA:
        numbers = [*numbers[1:10], numbers[11], *numbers[13:22]]
    if len(numbers) != len(blocks) or None in values:
        draft.unsupported(key, "why.unreadable")
        return None
    return dict(zip(blocks, numbers, strict=True))


def _alphas_beside(draft: Draft, key: str, path: str, usual: str) -> None:
    """Kohya takes the LoRA's one alpha for every rank; here alpha follows the rank unless it is given."""
    entry = draft.entries.get(key)
    if entry is None or entry.group != "mapped" or path in draft.changes or not draft.is_in_variant(path):
        return
    ranks, alpha = draft.changes[_DIMS[key]], draft.changes.get(usual) or draft.number("conv_alpha") or 1.0
    draft.changes[path] = re.sub(r"=[^,]+", f"={alpha:g}", ranks)


def _text(values: dict[str, float]) -> str:
    return ", ".join(f"{block}={value:.6g}" for block, value in values.items())


def _pairs(text: str) -> list[tuple[str, float]]:
    """ "regex=value,regex=value", as sd-scripts takes it apart."""
    found = []
    for pair in text.split(","):
        pattern, _, value = pair.rpartition("=")
        if not pattern.strip():
            raise ValueError(pair)
        try:
            re.compile(pattern.strip())
        except re.error:
            raise ValueError(pattern) from None
        found.append((pattern.strip(), float(value)))
    return found


def _prepend(draft: Draft, path: str, values: Sequence[tuple[str, float]]) -> None:
    """Patterns come first, for they are not for blocks."""
    if not draft.field(path) or not draft.is_in_variant(path):
        return
    own = ", ".join(f"/{_escaped(pattern)}/={value:.6g}" for pattern, value in values)
    draft.changes[path] = ", ".join(part for part in (own, draft.changes.get(path, "")) if part)


def _escaped(pattern: str) -> str:
    """A regular expression between slashes holds none of its own."""
    return re.sub(r"(?<!\\)/", r"\\/", pattern)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
