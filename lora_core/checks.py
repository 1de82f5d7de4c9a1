"""Do the settings fit together? Findings across fields, pure: nothing here looks at the machine or the disk.

One small function a rule; ``COMBINATIONS`` lists them all. Limits of single fields are in lora_core/settings, and what
depends on this machine is in lora_core/preflight.py.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from lora_core import checks_flux, checks_pair, checks_slider, launch_checks
from lora_core.checks_noise import LOSS_AND_NOISE
from lora_core.errors import Problem
from lora_core.i18n import Language, text
from lora_core.selection import rates_differ
from lora_core.settings import FINDS_ITS_OWN_RATE, LokrSettings, NetworkSettings, RunSettings, sides
from lora_core.settings.applies import APPLIES, applies, conditions
from lora_core.settings.fields import default_of, label, values_of
from lora_core.settings.optimizer import ONE_RATE_FOR_ALL, SCHEDULE_FREE

Found = Iterator[Problem]


def combination_problems(settings: RunSettings) -> list[Problem]:
    """All findings, errors first. An error keeps the run from starting; most carry a fix."""
    found = [problem for rule in COMBINATIONS for problem in rule(settings)]
    found += without_effect(settings, {problem.path for problem in found})
    return sorted(found, key=lambda problem: problem.severity != "error")


def effective_scale(network: NetworkSettings) -> float:
    """What the LoRA's effect is multiplied by: alpha / rank, or alpha / sqrt(rank) if so set."""
    if has_no_rank(network):
        return 1.0
    rank, alpha = network.rank_and_alpha(kernel=False)
    return alpha / rank


def has_no_rank(network: NetworkSettings) -> bool:
    """Whether rank and alpha count for nothing."""
    return isinstance(network, LokrSettings) and network.full_matrix


def rates(settings: RunSettings) -> dict[str, float]:
    """Learning rate of each part that is trained, by the path of the setting that decides it."""
    train = settings.train
    parts = {"train.unet_lr": train.unet_lr}
    if train.train_text_encoder:
        parts["train.text_encoder_lr"] = train.text_encoder_lr
        if settings.model.family == "sdxl" and train.text_encoder_2_lr is not None:
            parts["train.text_encoder_2_lr"] = train.text_encoder_2_lr
    return {
        path if rate is not None else "train.learning_rate": rate if rate is not None else train.learning_rate
        for path, rate in parts.items()
    }


def _uses_rates(settings: RunSettings) -> bool:
    """False when Adafactor finds its own learning rate and the ones in the settings are not used."""
    return not getattr(settings.optimizer, "relative_step", False)


def _ordinary_rates(settings: RunSettings) -> dict[str, float]:
    """The learning rates, if they are plain step sizes; empty if the optimizer finds its own."""
    name = settings.optimizer.name
    ordinary = name not in FINDS_ITS_OWN_RATE and name not in _PLAIN_DESCENT and _uses_rates(settings)
    return rates(settings) if ordinary else {}


_PLAIN_DESCENT = frozenset({"SGDNesterov", "SGDNesterov8bit", "SGDScheduleFree"})
"""Their steps are as large as the gradients, which are tiny: rates are thousands of times those of AdamW."""
_ONE_RATE = {
    "train.learning_rate": 1.0,
    "train.unet_lr": None,
    "train.text_encoder_lr": None,
    "train.text_encoder_2_lr": None,
}
_LEAST_MULTIPLIER = 0.1
_HIGH_RATE = 0.01
"""Far above what any LoRA takes with an ordinary optimizer: usually left over from Prodigy's 1."""


def own_rate_too_low(settings: RunSettings) -> Found:
    """Prodigy and D-Adaptation multiply the rate they find by the learning rate: 1e-4 then learns nothing."""
    if settings.optimizer.name in FINDS_ITS_OWN_RATE:
        for path, rate in rates(settings).items():
            if rate < _LEAST_MULTIPLIER:
                yield _error(
                    path, "checks.own_rate_low", _ONE_RATE, optimizer=settings.optimizer.name, rate=f"{rate:g}"
                )


def own_rate_differs(settings: RunSettings) -> Found:
    """They find one rate for the whole LoRA, so that parts can't have different ones."""
    found = set(rates(settings).values())
    if settings.optimizer.name in ONE_RATE_FOR_ALL and len(found) > 1 and min(found) >= _LEAST_MULTIPLIER:
        own = ("train.unet_lr", "train.text_encoder_lr", "train.text_encoder_2_lr")
        fix = dict.fromkeys(own)
        path = next(path for path in own[::-1] if getattr(settings.train, path.removeprefix("train.")) is not None)
        yield _error(path, "checks.own_rate_differs", fix, optimizer=settings.optimizer.name)


def rate_too_high(settings: RunSettings) -> Found:
    for path, rate in _ordinary_rates(settings).items():
        if rate > _HIGH_RATE:
            values = {"optimizer": settings.optimizer.name, "rate": f"{rate:g}"}
            yield _warning(path, "checks.rate_high", {path: 1e-4}, **values)


_LION = (3e-4, 3e-5)
_LARGE_STEPS = {"Lion": _LION, "Lion8bit": _LION, "PagedLion8bit": _LION, "Muon": (2e-3, 2e-4)}
"""Optimizers with larger steps than AdamW's at the same rate: above which they break LoRAs, and the usual rate."""


def rate_too_high_for_optimizer(settings: RunSettings) -> Found:
    """Lion moves every weight by the whole rate; Muon's rates elsewhere, 0.02, are before a scale that it has here."""
    limit, usual = _LARGE_STEPS.get(settings.optimizer.name, (_HIGH_RATE, _HIGH_RATE))
    for path, rate in rates(settings).items():
        if limit < rate <= _HIGH_RATE:
            values = {"optimizer": settings.optimizer.name, "rate": f"{rate:g}", "usual": f"{usual:g}"}
            yield _warning(path, "checks.rate_high_for_optimizer", {path: usual}, **values)


def rate_too_low_for_descent(settings: RunSettings) -> Found:
    for path, rate in rates(settings).items():
        if settings.optimizer.name in _PLAIN_DESCENT and rate < _HIGH_RATE:
            values = {"optimizer": settings.optimizer.name, "rate": f"{rate:g}"}
            yield _warning(path, "checks.rate_low_for_descent", {path: 1.0}, **values)


def average_of_averages(settings: RunSettings) -> Found:
    if settings.train.ema_decay is not None and settings.optimizer.name in SCHEDULE_FREE:
        fix = {"train.ema_decay": None}
        yield _error("train.ema_decay", "checks.average_of_averages", fix, optimizer=settings.optimizer.name)


def text_encoder_options_unused(settings: RunSettings) -> Found:
    """What is set for a text encoder that is trained, or is not."""
    train = settings.train
    for path in ("train.stop_text_encoder_training", "train.stop_text_encoder_steps"):
        if not train.train_text_encoder and getattr(train, path.removeprefix("train.")) is not None:
            yield _warning(path, "checks.stop_unused", {path: None})
    path = "train.cache_text_encoder_outputs"
    if train.train_text_encoder and train.cache_text_encoder_outputs == "disk":
        yield _warning(path, "checks.text_cache_unused", {path: "memory"})


def adapter_in_bf16_with_fp16(settings: RunSettings) -> Found:
    """Gradients in bf16 can't be scaled as fp16 needs it."""
    if settings.train.adapter_precision == "bf16" and settings.train.mixed_precision == "fp16":
        yield _error("train.adapter_precision", "checks.bf16_with_fp16", {"train.adapter_precision": "float32"})


def warmup_longer_than_run(settings: RunSettings) -> Found:
    total, steps = settings.train.max_train_steps, getattr(settings.schedule, "warmup_steps", None)
    if total is not None and steps is not None and steps >= total:
        fix = {"schedule.warmup_steps": total // 10}
        yield _warning("schedule.warmup_steps", "checks.warmup_long", fix, steps=steps, total=total)


def rate_too_high_for_rank(settings: RunSettings) -> Found:
    """A big LoRA at full scale breaks sooner than a small one at the same rate."""
    scale, rank = effective_scale(settings.network), settings.network.rank
    for path, rate in _ordinary_rates(settings).items():
        if rank >= 64 and rate * scale > 1e-3 and rate <= _HIGH_RATE:
            values = {"rate": f"{rate:g}", "rank": rank, "scale": f"{scale:g}"}
            yield _warning(path, "checks.rate_high_for_rank", {path: 1e-4}, **values)


def alpha_over_rank(settings: RunSettings) -> Found:
    network = settings.network
    if network.alpha > network.rank and not has_no_rank(network):
        values = {"alpha": f"{network.alpha:g}", "rank": network.rank, "scale": f"{effective_scale(network):g}"}
        yield _warning("network.alpha", "checks.alpha_over_rank", {"network.alpha": float(network.rank)}, **values)


def conv_alpha_over_rank(settings: RunSettings) -> Found:
    network = settings.network
    if network.algo in ("lora", "oft") or network.conv_rank is None or has_no_rank(network):
        return
    if network.conv_alpha > network.conv_rank:
        values = {"alpha": f"{network.conv_alpha:g}", "rank": network.conv_rank}
        fix = {"network.conv_alpha": float(network.conv_rank)}
        yield _warning("network.conv_alpha", "checks.conv_alpha_over_rank", fix, **values)


def locon_without_convolutions(settings: RunSettings) -> Found:
    if settings.network.algo == "locon" and settings.network.conv_rank is None:
        yield _warning("network.conv_rank", "checks.locon_without_convolutions", {"network.conv_rank": 8})


def dim_without_weights(settings: RunSettings) -> Found:
    network = settings.network
    if network.dim_from_weights and network.network_weights is None:
        fix = {"network.dim_from_weights": False}
        yield _error("network.dim_from_weights", "checks.dim_without_weights", fix)


def pissa_with_weights(settings: RunSettings) -> Found:
    """Both say where the numbers start."""
    network = settings.network
    if getattr(network, "init", "") == "pissa" and network.network_weights is not None:
        yield _error("network.init", "checks.pissa_with_weights", {"network.init": "kaiming"})


def norms_without_scale(settings: RunSettings) -> Found:
    """A change that is no product of factors cannot be shrunk by them."""
    network = settings.network
    special = getattr(network, "init", "") == "pissa" or getattr(network, "weight_decompose", False)
    if special and getattr(network, "scale_weight_norms", None) is not None:
        fix = {"network.scale_weight_norms": None}
        yield _error("network.scale_weight_norms", "checks.norms_without_scale", fix)


_RATIOS = ("loraplus_ratio", "loraplus_unet_ratio", "loraplus_text_encoder_ratio")


def one_rate_only(settings: RunSettings) -> Found:
    """An optimizer that finds its own rate finds one for all parameters."""
    if settings.optimizer.name not in FINDS_ITS_OWN_RATE and _uses_rates(settings):
        return
    network = settings.network
    given: dict[str, Any] = {f"network.{name}": None for name in _RATIOS if getattr(network, name, None)}
    if rates_differ(settings):
        given["network.block_lrs"] = ""
    if given:
        yield _error(next(iter(given)), "checks.one_rate_only", given, optimizer=settings.optimizer.name)


def alpha_tiny(settings: RunSettings) -> Found:
    """alpha 1 with rank 32 divides the effect by 32; at a usual learning rate little is learned."""
    scale = effective_scale(settings.network)
    highest = max(_ordinary_rates(settings).values(), default=1.0)
    if scale < 0.1 and highest < 5e-4:
        values = {"alpha": f"{settings.network.alpha:g}", "rank": settings.network.rank, "scale": f"{scale:.2g}"}
        yield _warning("network.alpha", "checks.alpha_tiny", {"network.alpha": settings.network.rank / 2}, **values)


def adafactor_schedule(settings: RunSettings) -> Found:
    """The adafactor schedule only follows the rate that Adafactor itself finds."""
    if settings.schedule.name != "adafactor":
        return
    if settings.optimizer.name != "Adafactor":
        fix = {"schedule.name": "cosine"}
        yield _error("schedule.name", "checks.adafactor_schedule", fix, optimizer=settings.optimizer.name)
    elif not settings.optimizer.relative_step:
        yield _warning("schedule.name", "checks.adafactor_schedule_constant", {"schedule.name": "constant"})


def adafactor_own_rate(settings: RunSettings) -> Found:
    """An Adafactor that finds its own rate takes neither a schedule nor learning rates from outside."""
    if _uses_rates(settings):
        return
    if settings.schedule.name not in ("adafactor", "constant"):
        fix = {"schedule.name": "adafactor"}
        yield _error("schedule.name", "checks.adafactor_own_rate", fix, schedule=settings.schedule.name)
    for path in rates(settings):
        if path != "train.learning_rate":
            yield _warning(path, "checks.adafactor_ignores_rate", {path: None})


def schedule_free(settings: RunSettings) -> Found:
    """Schedule-free optimizers average the weights in place of a falling learning rate."""
    name = getattr(settings.optimizer, "class_path", "") or settings.optimizer.name
    if "ScheduleFree" in name and settings.schedule.name not in ("constant", "constant_with_warmup"):
        fix = {"schedule.name": "constant"}
        yield _error("schedule.name", "checks.schedule_free", fix, optimizer=name, schedule=settings.schedule.name)


def custom_optimizer(settings: RunSettings) -> Found:
    if settings.optimizer.name == "custom":
        path = settings.optimizer.class_path.strip()
        if not all(part.isidentifier() for part in path.split(".")) or "." not in path:
            yield _error("optimizer.class_path", "checks.class_path", given=path)


def text_encoder_rate_unused(settings: RunSettings) -> Found:
    train = settings.train
    if train.train_text_encoder:
        return
    for path in ("train.text_encoder_lr", "train.text_encoder_2_lr"):
        if (rate := getattr(train, path.removeprefix("train."))) is not None:
            yield _warning(path, "checks.text_encoder_rate_unused", {path: None}, rate=f"{rate:g}")


def fp16_on_cpu(settings: RunSettings) -> Found:
    if settings.train.device == "cpu" and settings.train.mixed_precision == "fp16":
        yield _error("train.mixed_precision", "checks.fp16_on_cpu", {"train.mixed_precision": "auto"})


def cache_with_random_crop(settings: RunSettings) -> Found:
    """A cached latent is one crop; a random crop needs a new one at every step."""
    if settings.dataset.random_crop and settings.dataset.cache_latents != "off":
        yield _error("dataset.random_crop", "checks.cache_random_crop", {"dataset.cache_latents": "off"})


def keep_tokens_unused(settings: RunSettings) -> Found:
    dataset = settings.dataset
    moving = dataset.shuffle_caption or dataset.caption_tag_dropout_rate or dataset.token_warmup_step is not None
    if dataset.keep_tokens and not moving:
        fix = {"dataset.shuffle_caption": True}
        yield _warning("dataset.keep_tokens", "checks.keep_tokens", fix, count=dataset.keep_tokens)


def captions_never_seen(settings: RunSettings) -> Found:
    dataset = settings.dataset
    if dataset.caption_dropout_rate == 1:
        fix: dict[str, Any] = {"dataset.caption_dropout_rate": 0.05}
        yield _warning("dataset.caption_dropout_rate", "checks.no_captions", fix)
    elif dataset.caption_dropout_every_n_epochs == 1:
        fix = {"dataset.caption_dropout_every_n_epochs": None}
        yield _warning("dataset.caption_dropout_every_n_epochs", "checks.no_captions", fix)


def regularisation_without_weight(settings: RunSettings) -> Found:
    dataset = settings.dataset
    has_reg = dataset.reg_dir is not None and dataset.config is None
    if has_reg and settings.loss.prior_loss_weight == 0:
        fix = {"loss.prior_loss_weight": 1.0}
        yield _warning("loss.prior_loss_weight", "checks.regularisation_weight", fix)


def bucket_limits(settings: RunSettings) -> Found:
    """Limits of bucket sides count only while small images are enlarged."""
    dataset = settings.dataset
    if not dataset.enable_bucket or dataset.bucket_no_upscale:
        return
    low, high = dataset.min_bucket_reso, dataset.max_bucket_reso
    if low > high:
        fix = {"dataset.min_bucket_reso": high, "dataset.max_bucket_reso": low}
        yield _error("dataset.min_bucket_reso", "checks.bucket_order", fix, low=low, high=high)
        return
    shortest, longest = min(sides(dataset.resolution)), max(sides(dataset.resolution))
    if shortest < low:
        fix = {"dataset.min_bucket_reso": max(8, shortest)}
        values = {"resolution": dataset.resolution, "low": low}
        yield _error("dataset.min_bucket_reso", "checks.resolution_below_buckets", fix, **values)
    if longest > high:
        fix = {"dataset.max_bucket_reso": longest}
        values = {"resolution": dataset.resolution, "high": high}
        yield _error("dataset.max_bucket_reso", "checks.resolution_above_buckets", fix, **values)


_CELL = 8
"""Pixels per side of a latent in Stable Diffusion: sides of training pictures must be multiples of it."""


def bucket_steps(settings: RunSettings) -> Found:
    dataset = settings.dataset
    step = dataset.bucket_reso_steps
    if not dataset.enable_bucket:
        return
    if step % _CELL:
        fix = {"dataset.bucket_reso_steps": max(_CELL, step // _CELL * _CELL)}
        yield _error("dataset.bucket_reso_steps", "checks.bucket_steps", fix, step=step)
    elif min(sides(dataset.resolution)) < step:
        fix = {"dataset.bucket_reso_steps": min(sides(dataset.resolution)) // _CELL * _CELL}
        values = {"resolution": dataset.resolution, "step": step}
        yield _error("dataset.bucket_reso_steps", "checks.bucket_steps_over_resolution", fix, **values)


def resolution_without_buckets(settings: RunSettings) -> Found:
    """With buckets the resolution is an area; without, it is the size itself and must fit the latents."""
    dataset = settings.dataset
    if not dataset.enable_bucket and any(side % _CELL for side in sides(dataset.resolution)):
        near = ",".join(str(max(16, side // _CELL * _CELL)) for side in sides(dataset.resolution))
        values = {"resolution": dataset.resolution, "near": near}
        yield _error("dataset.resolution", "checks.resolution_cells", {"dataset.resolution": near}, **values)


@dataclass(frozen=True)
class NoEffect(Problem):
    """A setting that was changed and counts for nothing; its sentence names others, in the reader's language."""

    def message(self, language: Language = "en") -> str:
        names = {"label": label(self.path, language), "conditions": conditions(self.path, language)}
        return text(self.key, language, **names)


def without_effect(settings: RunSettings, named: Collection[str]) -> Found:
    """What was turned on and does nothing; not what another rule has ``named``, nor numbers of what is off anyway."""
    values = values_of(settings)
    for path in [path for path in APPLIES if path in values and path not in named]:
        default = default_of(path, values)
        if not default and values[path] != default and not applies(path, values):
            english = {"label": label(path), "conditions": conditions(path, "en")}
            yield NoEffect(path, "checks.no_effect", english, "warning", {path: default})


_LONGEST_NAME = 180
"""Bytes of UTF-8; with "-step00001000-state", ".safetensors" and a temporary ending it must stay under 255."""


def name_too_long(settings: RunSettings) -> Found:
    """A limit of 120 letters is not enough: a Japanese letter takes three bytes of a file name."""
    name = settings.save.output_name
    if len(name.encode()) > _LONGEST_NAME:
        short = name.encode()[:_LONGEST_NAME].decode(errors="ignore").rstrip(" .")
        yield _error("save.output_name", "checks.name_long", {"save.output_name": short}, length=len(short))


def never_saved_on_the_way(settings: RunSettings) -> Found:
    save, train = settings.save, settings.train
    if train.max_train_steps is None and (save.save_every_n_epochs or 0) > train.epochs:
        path, values = "save.save_every_n_epochs", {"every": save.save_every_n_epochs, "last": train.epochs}
        yield _warning(path, "checks.save_epochs", {path: 1}, **values)
    if (save.save_every_n_steps or 0) > (train.max_train_steps or float("inf")):
        path, values = "save.save_every_n_steps", {"every": save.save_every_n_steps, "last": train.max_train_steps}
        yield _warning(path, "checks.save_steps", {path: None}, **values)


def samples_never_drawn(settings: RunSettings) -> Found:
    """A cadence without prompts is no problem: it is the default. Prompts without a cadence were meant to be drawn."""
    sample = settings.sample
    lines = (line.strip() for line in sample.prompts.splitlines())
    wanted = any(line and not line.startswith("#") for line in lines)
    if wanted and not (sample.at_start or sample.every_n_epochs or sample.every_n_steps):
        yield _warning("sample.every_n_epochs", "checks.samples_never", {"sample.every_n_epochs": 1})


def folders_not_used(settings: RunSettings) -> Found:
    """A dataset file takes the place of the folders, as in sd-scripts; a caption list that of regularisation."""
    dataset = settings.dataset
    if dataset.has_pair:
        return  # said in checks_pair
    if dataset.config is not None:
        for name in ("train_dir", "reg_dir", "metadata_file"):
            if getattr(dataset, name) is not None:
                path = f"dataset.{name}"
                yield _warning(path, "checks.folder_not_used", {path: None}, file=dataset.config)
    elif dataset.metadata_file is not None and dataset.reg_dir is not None:
        fix = {"dataset.reg_dir": None}
        yield _warning("dataset.reg_dir", "checks.folder_not_used", fix, file=dataset.metadata_file)


def first_tags_unused(settings: RunSettings) -> Found:
    dataset = settings.dataset
    if dataset.token_warmup_min != 1 and dataset.token_warmup_step is None:
        yield _warning("dataset.token_warmup_min", "checks.token_warmup", {"dataset.token_warmup_min": 1})


OF_A_DATASET: tuple[Callable[[RunSettings], Found], ...] = (bucket_limits, bucket_steps, resolution_without_buckets)
"""Rules that hold for each dataset of a dataset file as for the run's own."""
COMBINATIONS: tuple[Callable[[RunSettings], Found], ...] = (
    own_rate_too_low,
    own_rate_differs,
    rate_too_high,
    rate_too_high_for_optimizer,
    rate_too_low_for_descent,
    rate_too_high_for_rank,
    warmup_longer_than_run,
    average_of_averages,
    text_encoder_options_unused,
    adapter_in_bf16_with_fp16,
    alpha_over_rank,
    conv_alpha_over_rank,
    locon_without_convolutions,
    dim_without_weights,
    pissa_with_weights,
    norms_without_scale,
    one_rate_only,
    alpha_tiny,
    adafactor_schedule,
    adafactor_own_rate,
    schedule_free,
    custom_optimizer,
    text_encoder_rate_unused,
    fp16_on_cpu,
    cache_with_random_crop,
    keep_tokens_unused,
    captions_never_seen,
    regularisation_without_weight,
    folders_not_used,
    first_tags_unused,
    bucket_limits,
    bucket_steps,
    resolution_without_buckets,
    name_too_long,
    never_saved_on_the_way,
    samples_never_drawn,
    *LOSS_AND_NOISE,
    *checks_pair.COMBINATIONS,
    *checks_slider.COMBINATIONS,
    *checks_flux.COMBINATIONS,
    *launch_checks.COMBINATIONS,
)


def _error(path: str, key: str, fix: dict[str, Any] | None = None, /, **values: Any) -> Problem:
    return Problem(path, key, values, "error", fix or {})


def _warning(path: str, key: str, fix: dict[str, Any] | None = None, /, **values: Any) -> Problem:
    return Problem(path, key, values, "warning", fix or {})
