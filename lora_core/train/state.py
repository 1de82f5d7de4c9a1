"""The training state on disk: all that is needed to go on at the next step as if nothing had happened.

Random numbers need no state (see randomness.py), nor does the schedule: both are functions of the step. What remains is
the adapter in float32, the optimizer, the loss scaler and where the run stands. The dataset's fingerprint and the
settings that shape the past are kept to refuse a resume that could not be exact.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lora_core.errors import UserError
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of
from lora_core.train.ema import Ema
from lora_core.train.rounding import in_float32

VERSION = 1
_EMA = "ema.safetensors"
SHAPES_THE_PAST = (
    "model.base",
    "model.family",
    "model.prediction_type",
    "model.clip_skip",
    "model.max_token_length",
    "model.t5_max_token_length",
    "model.apply_t5_attn_mask",
    "model.guidance",
    "dataset.resolution",
    "dataset.enable_bucket",
    "network.algo",
    "network.rank",
    "network.alpha",
    "network.rs_lora",
    "network.conv_rank",
    "network.conv_alpha",
    "network.factor",
    "network.full_matrix",
    "network.decompose_both",
    "network.dim_from_weights",
    "network.base_weights",
    "network.init",
    "network.weight_decompose",
    "network.constraint",
    "network.include",
    "network.exclude",
    "network.block_ranks",
    "network.block_alphas",
    "network.block_conv_ranks",
    "network.block_conv_alphas",
    "network.block_lrs",
    "network.loraplus_ratio",
    "network.loraplus_unet_ratio",
    "network.loraplus_text_encoder_ratio",
    "optimizer.name",
    "train.gradient_accumulation_steps",
    "train.train_text_encoder",
    "train.adapter_precision",
    "slider.target",
    "slider.more",
    "slider.less",
    "slider.keep",
    "slider.guidance",
)
"""Settings that must be as they were: with others the saved numbers do not fit, or mean something else."""
_BATCH = ("train.train_batch_size", "launch.processes")
"""Their product must be as it was: 2 processes of batch size 1 take the same batches as 1 of batch size 2."""


@dataclass(frozen=True)
class Position:
    """Where a run stands."""

    step: int
    """Optimizer steps done; the next one has this 0-based number."""
    seed: int
    dataset_fingerprint: str
    settings: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION


def save_state(
    folder: Path,
    position: Position,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any = None,
    ema: Ema | None = None,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the state as a folder, complete or not at all: it is filled under another name and then renamed.

    ``texts`` are further files by name.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, temporary / "adapter.safetensors")
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        if ema is not None:
            save_file({name: tensor.cpu() for name, tensor in ema.state_dict().items()}, temporary / _EMA)
        if scaler is not None:
            torch.save(scaler.state_dict(), temporary / "scaler.pt")
        for name, content in texts.items():
            (temporary / name).write_text(content, encoding="utf-8")
        (temporary / "position.json").write_text(json.dumps(asdict(position), indent=2), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_position(folder: Path) -> Position:
    """Where the run of a state folder stands. Raises UserError if it is no complete state folder."""
    try:
        data = json.loads((folder / "position.json").read_text(encoding="utf-8"))
        position = Position(**data)
    except FileNotFoundError as error:
        raise UserError("train.state_missing", path=folder) from error
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
        raise UserError("train.state_broken", path=folder) from error
    if position.version > VERSION:
        raise UserError("train.state_newer", path=folder)
    return position


def check_fits(position: Position, settings: RunSettings, dataset_fingerprint: str, folder: Path) -> None:
    """Raises UserError naming what differs between the run that was saved and the one to go on with."""
    # What a state of an older version does not say was at its default.
    defaults = {path: fields_of()[path].default for path in (*SHAPES_THE_PAST, *_BATCH)}
    then, now = defaults | position.settings, defaults | flat(settings)
    changed = [path for path in SHAPES_THE_PAST if then[path] != now[path]]
    if changed:
        listed = ", ".join(f"{p} ({then[p]} → {now[p]})" for p in changed)
        raise UserError("train.state_settings_differ", path=folder, changed=listed)
    together, wanted = (math.prod(settings[path] for path in _BATCH) for settings in (then, now))
    if together != wanted:
        counts = {"then": together, "now": wanted, "processes": now["launch.processes"]}
        raise UserError("train.state_batch_differs", path=folder, **counts)
    if position.dataset_fingerprint != dataset_fingerprint:
        raise UserError("train.state_dataset_differs", path=folder)


def load_state(
    folder: Path,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any = None,
    ema: Ema | None = None,
) -> None:
    """Put the saved numbers into freshly built objects of the same shape. Never runs code from the files.

    An average that the run that was saved did not have starts at its weights.
    """
    try:
        network.load_state_dict(load_file(folder / "adapter.safetensors"))
        saved = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        with in_float32(parameters, 0):  # torch brings the optimizer's numbers into the format of the weights
            optimizer.load_state_dict(saved)
        if ema is not None:
            ema.restart()
            if (folder / _EMA).exists():
                ema.load_state_dict(load_file(folder / _EMA))
        if scaler is not None and (folder / "scaler.pt").exists():
            scaler.load_state_dict(torch.load(folder / "scaler.pt", weights_only=True))
    except (FileNotFoundError, RuntimeError, KeyError, ValueError) as error:
        raise UserError("train.state_broken", path=folder) from error


def flat(settings: RunSettings) -> dict[str, Any]:
    """Dotted path -> JSON value of every setting."""
    data = settings.model_dump(mode="json")
    return {
        f"{section}.{name}": value
        for section, values in data.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
