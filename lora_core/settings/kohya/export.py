"""From our settings to Kohya's files: a JSON for the GUI, a TOML for sd-scripts."""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from lora_core import base_weights
from lora_core.settings.fields import fields_of, unions_of, values_of
from lora_core.settings.kohya import export_blocks, rules_validation
from lora_core.settings.kohya import rules_optimizer as optimizers
from lora_core.settings.kohya.entries import Entry
from lora_core.settings.kohya.rules import FAMILIES
from lora_core.settings.kohya.table import ABSENT, ALIASES, ROWS
from lora_core.settings.kohya.values import is_empty
from lora_core.settings.run import RunSettings
from lora_core.train.optimizer_table import CLASSES

_OWN_WAY = {
    "model.family",
    "model.allow_download",
    "dataset.cache_latents",
    "network.algo",
    "network.base_weights",
    "optimizer.name",
    "optimizer.class_path",
    "optimizer.weight_decay",
    "optimizer.d_coef",
    "optimizer.relative_step",
    "optimizer.args",
    "schedule.name",
    "schedule.warmup",
    "loss.masked_loss",
    "noise.noise_offset_type",
    "noise.zero_terminal_snr",
    "schedule.warmup_steps",
    "schedule.decay",
    "schedule.decay_steps",
    "schedule.timescale",
    "schedule.step_rules",
    "train.stop_text_encoder_training",
    "train.adapter_precision",
    "train.base_precision",
    "train.cache_text_encoder_outputs",
    "train.epochs",
    "train.max_train_steps",
    "train.learning_rate",
    "train.unet_lr",
    "train.train_text_encoder",
    "train.text_encoder_lr",
    "save.resume",
    "save.tensorboard",
    "sample.prompts",
    "sample.sampler",
    "validation.every_n_epochs",
    "validation.split",
    "validation.seed",
    "validation.max_pictures",
}
"""Settings that are more or less than one key of Kohya; all others go by the field's Kohya name."""

_KINDS = {
    "lora": "Standard",
    "locon": "Kohya LoCon",
    "dora": "LyCORIS/LoCon",
    "loha": "LyCORIS/LoHa",
    "lokr": "LyCORIS/LoKr",
    "oft": "LyCORIS/Diag-OFT",
}
"""Our algorithms -> LoRA type of the GUI, whose files are as ours."""

_FLOW = frozenset({"flux1", "flow_density"})
"""What only FLUX.1's script knows."""

_SAMPLERS = {"dpmpp_2m_karras": "dpmsolver++"}
_TO_GUI = {name: alias for alias, name in ALIASES.items() if alias != "caption_extention"}
"""Name in the GUI -> option of sd-scripts, where they differ."""

_IN_NETWORK_ARGS = frozenset(
    key for key, row in ROWS.items() if row.scripts is ABSENT and row.topic in ("", "algorithm", "loraplus", "blocks")
) - {"lr_warmup", "noise_offset_type", "epoch", "additional_parameters", "LoRA_type"}


@dataclass(frozen=True)
class Exported:
    """A file for Kohya, and what it can't say. ``prompts`` is a second file, which sd-scripts wants beside it."""

    text: str
    entries: tuple[Entry, ...] = ()
    prompts: str = ""


def to_gui(settings: RunSettings) -> Exported:
    """A JSON that the GUI loads: all its keys. What it has no field for stands in "Additional parameters"."""
    found, entries = _by_key(settings)
    values = {key: row.gui for key, row in ROWS.items() if row.gui is not ABSENT and key not in _OLD}
    values |= {"model_list": "custom", "lr_warmup": found.pop("warmup", 0.0)}
    train = settings.train
    own = {"unet_lr": train.unet_lr or train.learning_rate}
    own["text_encoder_lr"] = (train.text_encoder_lr or train.learning_rate) if train.train_text_encoder else 0
    found |= own | {"learning_rate": train.learning_rate, "optimizer_args": " ".join(found["optimizer_args"])}
    found["lr_scheduler_args"] = " ".join(found["lr_scheduler_args"])
    found["stop_text_encoder_training"] = train.stop_text_encoder_training or 0
    found |= {"sample_prompts": settings.sample.prompts}
    stopped = train.max_train_steps is not None
    found |= {"epoch": train.epochs, "max_train_epochs": 0 if stopped else train.epochs}
    found |= {"max_train_steps": train.max_train_steps or 0}
    kind = settings.noise.noise_offset_type
    found["noise_offset_type"] = "Multires" if kind == "multires" else "Original"
    extra = _multires(found) if kind == "both" else []
    for key, value in found.items():
        if ROWS[key].gui is ABSENT or _is_lost(key, value):
            extra += _option(key, value)
        if ROWS[key].gui is not ABSENT:
            values[key] = _blank(key, value)
    values["additional_parameters"] = " ".join(shlex.quote(word) for word in extra)
    text = json.dumps(dict(sorted(values.items())), indent=2, ensure_ascii=False) + "\n"
    return Exported(text, entries)


def to_scripts(settings: RunSettings, prompts_file: Path | None = None) -> Exported:
    """A TOML for ``--config_file`` of sd-scripts. Prompts go into ``prompts_file``, which the caller writes."""
    found, entries = _by_key(settings)
    entries += _without_launch(found, settings)
    train = settings.train
    module = "networks.lora_flux" if settings.model.family == "flux" else "networks.lora"
    values: dict[str, Any] = {"network_module": module, "learning_rate": train.learning_rate}
    if warmup := found.pop("warmup", 0.0):
        values["lr_warmup_steps"] = min(warmup / 100, 0.999999)
    values |= {"unet_lr": train.unet_lr, "network_train_unet_only": not train.train_text_encoder}
    values["text_encoder_lr"] = train.text_encoder_lr if train.train_text_encoder else None
    kind = found.pop("noise_offset_type")
    found |= {"multires_noise_iterations": None} if kind == "original" else {}
    found |= {"noise_offset": None} if kind == "multires" else {}
    limit = "max_train_epochs" if train.max_train_steps is None else "max_train_steps"
    values[limit] = train.max_train_steps or train.epochs
    within = {key: found.pop(key) for key in sorted(_IN_NETWORK_ARGS & found.keys())}
    arguments = [f"{key}={value}" for key, value in within.items() if not is_empty(value)]
    kind = found.pop("LoRA_type")
    if kind.startswith("LyCORIS/"):
        values["network_module"] = "lycoris.kohya"
        arguments.insert(0, f"algo={kind.removeprefix('LyCORIS/').lower()}")
    values |= {_TO_GUI.get(key, key): value for key, value in found.items()}
    values["network_args"] = arguments
    if settings.sample.prompts and prompts_file is not None:
        values["sample_prompts"] = str(prompts_file.absolute())
    if values.get("max_token_length") == 75:
        del values["max_token_length"]
    for family in FAMILIES:  # sd-scripts has a script for each instead
        if family != "v2":
            values.pop(family, None)
    if train.stop_text_encoder_training is not None:
        path, percent = "train.stop_text_encoder_training", train.stop_text_encoder_training
        entries += (Entry(path, percent, "unsupported", reason="export.unknown"),)
    document = tomlkit.document()
    for name, value in sorted(values.items()):
        if value is None and _is_lost(ALIASES.get(name, name), value):
            value = 0
        if not (value is None or value is False or value == "" or value == []):
            document.add(name, value)
    return Exported(tomlkit.dumps(document), entries, settings.sample.prompts)


def _by_key(settings: RunSettings) -> tuple[dict[str, Any], tuple[Entry, ...]]:
    """Values under the GUI's keys, ``warmup`` in percent beside them, and what Kohya can't say."""
    values, fields = values_of(settings), fields_of()
    keys = {row.to: key for key, row in ROWS.items() if row.to}
    found: dict[str, Any] = {}
    lost = []
    for path, value in values.items():
        key = keys.get(path) or fields[path].kohya
        if path in _OWN_WAY | export_blocks.FIELDS or (
            key and key in ROWS and ROWS[key].needs in _FLOW and settings.model.family != "flux"
        ):
            continue
        if key is not None and key in ROWS:
            found[key] = str(value) if isinstance(value, Path) else value
        elif value != fields[path].default:
            lost.append(Entry(path, value, "unsupported", reason="export.unknown"))
    found |= dict(_own(settings, lost))
    return found, tuple(lost)


def _own(settings: RunSettings, lost: list[Entry]) -> Iterator[tuple[str, Any]]:
    def left_out(path: str, value: Any, reason: str) -> None:
        lost.append(Entry(path, value, "unsupported", reason=f"export.{reason}"))

    yield from ((key, True) for key, name in FAMILIES.items() if name == settings.model.family)
    if settings.model.base == "built-in":
        left_out("model.base", "built-in", "built_in")
    cache = settings.dataset.cache_latents
    yield "cache_latents", cache != "off"
    yield "cache_latents_to_disk", cache == "disk"
    algorithm = settings.network.algo
    conv = any(f.kohya == "conv_dim" and values_of(settings).get(path) for path, f in fields_of().items())
    kind = "Kohya LoCon" if algorithm == "lora" and conv else _KINDS.get(algorithm, "")
    if not kind:
        left_out("network.algo", algorithm, "algorithm")
    if settings.model.family == "flux":
        kind = {"Standard": "Flux1"}.get(kind, kind)
        yield from _flux(settings)
    yield "LoRA_type", kind or "Standard"
    yield "dora_wd", algorithm == "dora" or bool(getattr(settings.network, "weight_decompose", False))
    if settings.network.base_weights:
        sources = base_weights.parse(settings.network.base_weights)
        yield "base_weights", [str(source.path) for source in sources]
        yield "base_weights_multiplier", [source.multiplier for source in sources]
    yield from _blocks(settings, left_out)
    yield from _loss_and_noise(settings)
    if settings.noise.zero_terminal_snr == "off":
        left_out("noise.zero_terminal_snr", "off", "zero_snr_off")
    yield "optimizer", _optimizer(settings)
    yield "optimizer_args", list(_arguments(settings))
    yield from _schedule(settings)
    if settings.schedule.name == "rex":
        left_out("schedule.name", "rex", "schedule")
    if "%" in getattr(settings.schedule, "step_rules", ""):
        left_out("schedule.step_rules", getattr(settings.schedule, "step_rules", ""), "step_rules")
    yield "full_bf16", settings.train.adapter_precision == "bf16"
    yield "fp8_base", settings.train.base_precision != "full"
    if settings.train.base_precision != "full":
        left_out("train.base_precision", settings.train.base_precision, "base_precision")
    if settings.train.cache_text_encoder_outputs == "disk" and not settings.model.family.startswith("sd1"):
        yield "sdxl_cache_text_encoder_outputs", True
        yield "cache_text_encoder_outputs_to_disk", True
    yield from rules_validation.exported(settings)
    yield "multi_gpu", settings.launch.processes > 1
    yield "num_cpu_threads_per_process", settings.launch.threads or ROWS["num_cpu_threads_per_process"].gui
    if settings.save.tensorboard:
        yield "log_with", "tensorboard"
        yield "logging_dir", str((settings.save.output_dir or Path()) / "log")
    sampler = settings.sample.sampler
    if sampler == "unipc":
        left_out("sample.sampler", sampler, "sampler")
    yield "sample_sampler", _SAMPLERS.get(sampler, "euler_a" if sampler == "unipc" else sampler)
    if settings.train.mixed_precision == "auto":
        left_out("train.mixed_precision", "auto", "precision")
        yield "mixed_precision", "fp16"
    if settings.train.max_train_steps is not None:
        left_out("train.epochs", settings.train.epochs, "epochs")
    if settings.save.resume is not None:
        left_out("save.resume", settings.save.resume, "resume")


def _blocks(settings: RunSettings, left_out: Callable[[str, Any, str], None]) -> Iterator[tuple[str, str]]:
    values = values_of(settings)
    given = [path for path in sorted(export_blocks.FIELDS) if values.get(path)]
    written = export_blocks.exported(settings) if given else {}
    if written is None:
        for path in given:
            left_out(path, values[path], "blocks")
    yield from (written or {}).items()


def _loss_and_noise(settings: RunSettings) -> Iterator[tuple[str, Any]]:
    """What is one setting here and several switches there."""
    yield "masked_loss", settings.loss.masked_loss == "folder"
    yield "alpha_mask", settings.loss.masked_loss == "alpha"
    yield "zero_terminal_snr", settings.noise.zero_terminal_snr == "on"
    yield "noise_offset_type", settings.noise.noise_offset_type


def _multires(found: dict[str, Any]) -> list[str]:
    """Multires noise beside a noise offset: the GUI passes on one of the two, so this one goes past it."""
    keys = ("multires_noise_iterations", "multires_noise_discount")
    return [word for key in keys for word in _option(key, found.pop(key))]


_NEAR_REX = 0.6
"""Power of the polynomial schedule that is never more than 0.08 from REX, which Kohya does not have."""


def _schedule(settings: RunSettings) -> Iterator[tuple[str, Any]]:
    """Name, warm-up, decay and arguments of the schedule. A share of the run is a number below 1 in sd-scripts."""
    schedule = settings.schedule
    yield "lr_scheduler", "polynomial" if schedule.name == "rex" else schedule.name
    if schedule.name == "rex":
        yield "lr_scheduler_power", _NEAR_REX
    steps = getattr(schedule, "warmup_steps", None)
    if steps:
        yield "lr_warmup_steps", steps
    yield "warmup", 0.0 if steps is not None else getattr(schedule, "warmup", 0.0)
    if schedule.name == "warmup_stable_decay":
        share = min(schedule.decay / 100, 0.999999)
        yield "lr_decay_steps", share if schedule.decay_steps is None else schedule.decay_steps
    if (timescale := getattr(schedule, "timescale", None)) is not None:
        yield "lr_scheduler_timescale", timescale
    rules = getattr(schedule, "step_rules", "")
    yield "lr_scheduler_args", [f"step_rules={''.join(rules.split())}"] if rules else []


def _flux(settings: RunSettings) -> Iterator[tuple[str, Any]]:
    """The VAE under its other name; the answer compared as it is; a density by sd-scripts' two options for it."""
    yield "ae", str(settings.model.vae or "")
    yield "vae", ""
    yield "model_prediction_type", "raw"
    if settings.noise.timestep_sampling == "logit_normal":
        yield from {
            "timestep_sampling": "sigma",
            "weighting_scheme": "logit_normal",
            "discrete_flow_shift": 1.0,
        }.items()


def _without_launch(found: dict[str, Any], settings: RunSettings) -> tuple[Entry, ...]:
    """Take out what sd-scripts' own file can't say, for it belongs to accelerate launch."""
    keys = {field.kohya for path, field in fields_of().items() if path.startswith("launch.")} | {"multi_gpu"}
    for key in [key for key in found if key in keys]:
        del found[key]
    processes = settings.launch.processes
    values = {"processes": processes}
    told = Entry("launch.processes", processes, "unsupported", reason="export.launch", values=values)
    return (told,) if processes > 1 else ()


def _optimizer(settings: RunSettings) -> str:
    """The short name of sd-scripts, or the class."""
    name = settings.optimizer.name
    if name in optimizers.SHORT_NAMES:
        return name
    return getattr(settings.optimizer, "class_path", "") or CLASSES.get(name, name)


def _arguments(settings: RunSettings) -> Iterator[str]:
    """key=value for every argument that sd-scripts would not pass by itself."""
    own = settings.optimizer
    fields = unions_of()["optimizer"][own.name].model_fields
    written = own.args.split()
    given = {word.partition("=")[0] for word in written}
    if own.weight_decay != optimizers.DECAYS.get(own.name, 0.0):
        yield f"weight_decay={own.weight_decay!r}"
    relative = bool(getattr(own, "relative_step", False))
    if "relative_step" in fields:
        yield f"relative_step={relative}"
    if "d_coef" in fields and getattr(own, "d_coef", 1.0) != 1.0:
        yield f"d_coef={own.d_coef!r}"  # type: ignore[union-attr]
    implied = optimizers.implied(own.name, relative_step=relative)
    for name, theirs in optimizers.KOHYA_ARGS.get(own.name, {}).items():
        if name not in given and implied[name] != theirs:
            yield f"{name}={implied[name]}"
    yield from written


def _is_lost(key: str, value: Any) -> bool:
    """The GUI would not pass this value on, and sd-scripts' default would step in."""
    row = ROWS.get(key)
    if row is None or not is_empty(value) or isinstance(value, str):
        return False
    if key == "seed":
        return value is not None
    known = row.scripts is not ABSENT and not is_empty(row.scripts)
    return known and key not in ("max_train_steps", "min_bucket_reso", "max_bucket_reso")


def _option(key: str, value: Any) -> list[str]:
    """A value on the command line; nothing for a switch that is off and a text that is empty."""
    name = f"--{_TO_GUI.get(key, key)}"
    if isinstance(value, bool):
        return [name] if value else []
    if value == "" or (value is None and ROWS[key].scripts is None):
        return []
    if isinstance(value, list):
        return [name, *map(str, value)]
    return [f"{name}={0 if value is None else value}"]


def _blank(key: str, value: Any) -> Any:
    """None as the GUI writes it: 0 for numbers, empty text for all else."""
    if value is not None:
        return value
    return 0 if isinstance(ROWS[key].gui, int | float) else ""


_OLD = frozenset({"use_wandb", "training_preset", "no_token_padding", "save_as_bool"})
