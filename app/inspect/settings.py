"""Training settings out of a LoRA, for the form: Kumakobo's own whole, those of sd-scripts as far as there is the same.

sd-scripts writes ``str()`` of each option as ss_* (kohya-ss/sd-scripts, train_network.py). What is read here is data of
strangers: a value that the settings would not take is left out and named.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.inspect.sd_scripts import OFF, flattened, noted, optimizer_changes, truth
from lora_core.errors import UserError
from lora_core.io.metadata import SETTINGS_KEY
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of, values_of
from lora_core.settings.overlay import with_values

Metadata = Mapping[str, str]


@dataclass(frozen=True)
class Taken:
    """What the form gets, and what it does not."""

    settings: RunSettings
    taken: dict[str, Any] = field(default_factory=dict)
    """Setting (dotted path) -> value."""
    left: dict[str, str] = field(default_factory=dict)
    """Key of the file -> its value, of what changes training and has no place in the form."""


def from_metadata(metadata: Metadata, now: RunSettings) -> Taken:
    """The settings of the page with those of an sd-scripts LoRA laid over them."""
    told = flattened(metadata)
    settings, left = now, noted(told)
    taken: dict[str, Any] = {}
    for key, changes in changes_of(told):
        try:
            settings = with_values(settings, changes)
        except UserError:
            left[key] = told[key]
        else:
            taken |= changes
            left.pop(key, None)
    return Taken(settings, taken, left)


def kept_places(loaded: RunSettings, now: RunSettings) -> RunSettings:
    """Settings of a LoRA, with the folders and the source model of the page where the file names none.

    A LoRA never names folders of the machine it was made on.
    """
    paths = [path for path, known in fields_of().items() if known.kind == "path"] + ["model.base"]
    empty, there = values_of(loaded), values_of(now)
    kept = {path: there[path] for path in paths if path in empty and not empty[path] and there.get(path)}
    return with_values(loaded, kept) if kept else loaded


def has_settings(metadata: Metadata) -> bool:
    """Whether there is anything to put into the form."""
    return SETTINGS_KEY in metadata or bool(changes_of(flattened(metadata)))


# ---- the table -------------------------------------------------------------------------------------------------------

Read = Callable[[str], Any]
"""A metadata text as a setting's value. Raises ValueError for what it is not."""


def _number(text: str) -> float:
    """Also the first of a list: newer sd-scripts write one learning rate a text encoder."""
    found = re.fullmatch(r"\s*\[?\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*(?:,.*)?\]?\s*", text[:200])
    if not found:
        raise ValueError(text)
    return float(found[1])


def _whole(text: str) -> int:
    number = _number(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _above_zero(read: Read) -> Read:
    """0 and None mean "off" to sd-scripts, and "not set" to us."""
    return lambda text: None if text.strip() in ("None", "") or not (number := read(text)) else number


def _resolution(text: str) -> str:
    sides = re.findall(r"\d{1,5}", text[:100])
    if not 1 <= len(sides) <= 2:
        raise ValueError(text)
    return ",".join(sides)


def _or(default: Any, read: Read) -> Read:
    """For options where None stands for a default."""
    return lambda text: default if text.strip() in ("None", "") else read(text)


def _on_or_auto(text: str) -> str:
    """sd-scripts has no third state: what it left off is what the model's file says here."""
    return "on" if text.strip() != "None" and truth(text) else "auto"


TABLE: tuple[tuple[str, str, Read], ...] = (
    ("ss_clip_skip", "model.clip_skip", _or(1, _whole)),
    ("ss_max_token_length", "model.max_token_length", _or(75, _whole)),
    ("ss_network_dim", "network.rank", _whole),
    ("ss_network_alpha", "network.alpha", _number),
    ("ss_network_dropout", "network.network_dropout", _or(0.0, _number)),
    ("rank_dropout", "network.rank_dropout", _or(0.0, _number)),
    ("module_dropout", "network.module_dropout", _or(0.0, _number)),
    ("ss_scale_weight_norms", "network.scale_weight_norms", _above_zero(_number)),
    ("ss_learning_rate", "train.learning_rate", _number),
    ("ss_unet_lr", "train.unet_lr", _above_zero(_number)),
    ("ss_num_epochs", "train.epochs", _whole),
    ("ss_batch_size_per_device", "train.train_batch_size", _whole),
    ("ss_gradient_accumulation_steps", "train.gradient_accumulation_steps", _whole),
    ("ss_gradient_checkpointing", "train.gradient_checkpointing", truth),
    ("ss_mixed_precision", "train.mixed_precision", str),
    ("ss_max_grad_norm", "train.max_grad_norm", _above_zero(_number)),
    ("ss_seed", "train.seed", _or(None, _whole)),
    ("ss_min_snr_gamma", "loss.min_snr_gamma", _above_zero(_number)),
    ("ss_debiased_estimation", "loss.debiased_estimation_loss", truth),
    ("ss_loss_type", "loss.loss_type", _or("l2", str)),
    ("ss_huber_schedule", "loss.huber_schedule", _or("snr", str)),
    ("ss_huber_c", "loss.huber_c", _or(0.1, _number)),
    ("ss_huber_scale", "loss.huber_scale", _or(1.0, _number)),
    ("ss_noise_offset", "noise.noise_offset", _above_zero(_number)),
    ("ss_noise_offset_random_strength", "noise.noise_offset_random_strength", truth),
    ("ss_adaptive_noise_scale", "noise.adaptive_noise_scale", _above_zero(_number)),
    ("ss_multires_noise_iterations", "noise.multires_noise_iterations", _above_zero(_whole)),
    ("ss_multires_noise_discount", "noise.multires_noise_discount", _or(0.3, _number)),
    ("ss_ip_noise_gamma", "noise.ip_noise_gamma", _above_zero(_number)),
    ("ss_ip_noise_gamma_random_strength", "noise.ip_noise_gamma_random_strength", truth),
    ("ss_zero_terminal_snr", "noise.zero_terminal_snr", _on_or_auto),
    ("ss_prior_loss_weight", "loss.prior_loss_weight", _number),
    ("ss_resolution", "dataset.resolution", _resolution),
    ("ss_enable_bucket", "dataset.enable_bucket", truth),
    ("ss_bucket_no_upscale", "dataset.bucket_no_upscale", truth),
    ("ss_min_bucket_reso", "dataset.min_bucket_reso", _whole),
    ("ss_max_bucket_reso", "dataset.max_bucket_reso", _whole),
    ("ss_flip_aug", "dataset.flip_aug", truth),
    ("ss_random_crop", "dataset.random_crop", truth),
    ("ss_shuffle_caption", "dataset.shuffle_caption", truth),
    ("ss_keep_tokens", "dataset.keep_tokens", _whole),
    ("ss_caption_dropout_rate", "dataset.caption_dropout_rate", _or(0.0, _number)),
    ("ss_caption_dropout_every_n_epochs", "dataset.caption_dropout_every_n_epochs", _above_zero(_whole)),
)
"""Metadata key -> setting, and how to read it. "None" where no reader expects it means that the file does not say."""

Changes = dict[str, Any]


def changes_of(told: Metadata) -> list[tuple[str, Changes]]:
    """Every key that has a place in the form, with the settings it stands for."""
    found = [*_family(told), *_algorithm(told)]
    for key, path, read in TABLE:
        if key in told:
            try:
                found.append((key, {path: read(told[key])}))
            except ValueError:
                continue
    return [*found, *_kind_of_noise(told), *_text_encoder(told), *_schedule(told), *_optimizer(told)]


_FAMILIES = (("sd_v1", "sd1"), ("sd_v2", "sd2"), ("sdxl", "sdxl"), ("flux", "flux"))


def _family(told: Metadata) -> list[tuple[str, Changes]]:
    key = "ss_base_model_version"
    family = next((name for start, name in _FAMILIES if told.get(key, "").startswith(start)), None)
    return [(key, {"model.family": family})] if family else []


def _algorithm(told: Metadata) -> list[tuple[str, Changes]]:
    """What sd-scripts' and LyCORIS' network modules were told to train, with the rank of the convolutions."""
    key, conv = "ss_network_module", told.get("conv_dim", "None") not in OFF
    algorithm = None
    if told.get(key) == "lycoris.kohya":
        wanted = told.get("algo", "")
        algorithm = ("dora" if truth(told.get("dora_wd", "False")) else "locon") if wanted == "locon" else wanted
    elif told.get(key) in ("networks.lora", "networks.lora_flux"):
        algorithm = "locon" if conv else "lora"
    if algorithm not in ("lora", "locon", "dora", "loha", "lokr"):
        return []
    found: list[tuple[str, Changes]] = [(k, {"network.algo": algorithm}) for k in (key, "algo", "dora_wd") if k in told]
    for option, path, read in (
        ("conv_dim", "network.conv_rank", _whole),
        ("conv_alpha", "network.conv_alpha", _number),
        ("factor", "network.factor", _whole),
    ):
        try:
            found.append((option, {path: read(told[option])}))
        except (KeyError, ValueError):
            continue
    return [entry for entry in found if entry[1].get("network.factor", 1) > 0]


def _kind_of_noise(told: Metadata) -> list[tuple[str, Changes]]:
    """sd-scripts uses every kind of noise that has a value; here one more setting says which."""
    key = "ss_multires_noise_iterations"
    if told.get(key, "None").strip() in OFF:
        return []
    both = told.get("ss_noise_offset", "None").strip() not in OFF
    return [(key, {"noise.noise_offset_type": "both" if both else "multires"})]


def _text_encoder(told: Metadata) -> list[tuple[str, Changes]]:
    """A rate of 0, and a list of zeros, mean that it was not trained."""
    key = "ss_text_encoder_lr"
    rates = re.findall(r"\d[\d.]*(?:e[+-]?\d+)?", told.get(key, "")[:200])
    try:
        values = [float(rate) for rate in rates]
    except ValueError:
        return []
    if not values:
        return []
    trained = max(values) > 0
    rate = {"train.text_encoder_lr": values[0]} if values[0] > 0 else {}
    return [(key, {"train.train_text_encoder": trained, **rate})]


def _schedule(told: Metadata) -> list[tuple[str, Changes]]:
    """The schedule, and its warm-up as a share of all steps."""
    key = "ss_lr_scheduler"
    if key not in told or told[key] in ("None", ""):
        return []
    found: list[tuple[str, Changes]] = [(key, {"schedule.name": told[key]})]
    try:
        warmup, steps = _number(told.get("ss_lr_warmup_steps", "")), _number(told.get("ss_max_train_steps", ""))
    except ValueError:
        return found
    if told[key] not in ("constant", "adafactor") and steps > 0 and warmup >= 0:
        found.append(("ss_lr_warmup_steps", {"schedule.warmup": round(100 * warmup / steps, 2)}))
    return found


def _optimizer(told: Metadata) -> list[tuple[str, Changes]]:
    changes = optimizer_changes(told.get("ss_optimizer", ""))
    return [("ss_optimizer", changes)] if changes else []
