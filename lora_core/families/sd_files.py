"""Stable Diffusion 1 from files: one LDM-key file, a diffusers folder, a separate VAE. Never from the network."""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lora_core.errors import UserError
from lora_core.families import sd_keys
from lora_core.families.sd_keys import State
from lora_core.io.folders import part_files, read_json, weight_files
from lora_core.io.headers import FileKind, read_header
from lora_core.io.safetensors import read_tensors

Module = TypeVar("Module", bound=nn.Module)
_BUNDLED_TOKENIZER = Path(__file__).parent / "bundled" / "clip_tokenizer"


@dataclass
class Parts:
    """How to read the networks of a model, and what is small enough to be read at once."""

    loaders: dict[str, Callable[[], nn.Module]]
    """Of unet, vae and text_encoder, on the CPU: the VAE in float32, the others in the number format asked for."""
    tokenizer: CLIPTokenizer
    scheduler: dict[str, Any]
    """diffusers' configuration of the noise schedule the model was trained with."""


def find_parts(kind: FileKind, vae: Path | None, dtype: torch.dtype) -> Parts:
    """The parts of a model in a file or folder; their weights are read when their loaders are called."""
    parts = _from_folder if kind.container == "folder" else _from_file
    return parts(kind, vae, dtype)


def _from_file(kind: FileKind, vae: Path | None, dtype: torch.dtype) -> Parts:
    path, read = kind.path, Checkpoint(kind.path)
    loaders: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: build_unet(read.part(sd_keys.UNET, dtype), path),
        "text_encoder": lambda: build_text_encoder(read.part(sd_keys.TEXT, dtype), path),
        "vae": lambda: load_vae(vae) if vae else build_vae(read.part(sd_keys.VAE, torch.float32), path),
    }
    prediction = {"prediction_type": kind.prediction_type}
    return Parts(loaders, load_tokenizer(None), sd_keys.bundled_config("scheduler") | prediction)


def _from_folder(kind: FileKind, vae: Path | None, dtype: torch.dtype) -> Parts:
    folder = kind.path
    unet_config, text_config = (read_json(folder / part / "config.json") for part in ("unet", "text_encoder"))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    loaders: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: _fill(UNet2DConditionModel, unet_config, _read_part(folder, "unet", dtype), folder / "unet"),
        "text_encoder": lambda: _fill_text(
            text_config, _read_part(folder, "text_encoder", dtype), folder / "text_encoder"
        ),
        "vae": lambda: load_vae(vae or folder / "vae"),
    }
    found = sd_keys.bundled_config("scheduler") | (read_json(scheduler) if scheduler.is_file() else {})
    return Parts(loaders, load_tokenizer(folder / "tokenizer"), found)


def load_tokenizer(folder: Path | None) -> CLIPTokenizer:
    """The tokenizer of a diffusers folder if it has one, else the bundled vocabulary of CLIP."""
    own = folder is not None and any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json"))
    return CLIPTokenizer.from_pretrained(str(folder if own else _BUNDLED_TOKENIZER), local_files_only=True)


def load_vae(path: Path) -> AutoencoderKL:
    """A VAE in float32 from a file with LDM or diffusers keys, its own folder, or the folder of a whole model."""
    if path.is_dir():
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        state: State = {}
        for file in weight_files(folder, "diffusion_pytorch_model"):
            state |= Checkpoint(file).part("", torch.float32)
        return _fill(AutoencoderKL, read_json(folder / "config.json"), sd_keys.rename_old_vae(state), folder)
    read = Checkpoint(path)
    prefix = next((p for p in (sd_keys.VAE, "vae.") if any(key.startswith(p) for key in read.keys)), "")
    return build_vae(read.part(prefix, torch.float32), path)


def build_unet(state: State, path: Path) -> UNet2DConditionModel:
    """A U-Net from tensors in LDM names."""
    config = _inferred(sd_keys.unet_config, state, path)
    return _fill(UNet2DConditionModel, config, sd_keys.convert_unet(state, config), path)


def build_vae(state: State, path: Path) -> AutoencoderKL:
    """An autoencoder from tensors in LDM names, or in diffusers names."""
    if any(".down_blocks." in key for key in state):
        state = sd_keys.rename_old_vae(state)
        return _fill(AutoencoderKL, _inferred(sd_keys.diffusers_vae_config, state, path), state, path)
    state = {key: t for key, t in state.items() if not key.startswith(("loss.", "model_ema."))}
    config = _inferred(sd_keys.vae_config, state, path)
    return _fill(AutoencoderKL, config, sd_keys.convert_vae(state, config), path)


def build_text_encoder(state: State, path: Path) -> CLIPTextModel:
    """A CLIP text encoder from tensors with or without ``text_model.`` in their names."""
    config = _inferred(sd_keys.text_config, sd_keys.rename_text(state), path)
    return _fill_text(config, state, path)


def _inferred(infer: Any, state: State, path: Path) -> dict[str, Any]:
    """Configuration by the shapes of the weights. A shape that is not there to be read is a missing tensor."""
    try:
        return infer({key: tuple(tensor.shape) for key, tensor in state.items()})
    except KeyError as error:
        raise UserError("model.tensors_missing", path=path, count=1, names=error.args[0]) from None


def _fill_text(config: Mapping[str, Any], state: State, path: Path) -> CLIPTextModel:
    state = sd_keys.rename_text(state)
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**config))
    if any(key.startswith("text_model.") for key in model.state_dict()):  # transformers before 5.6
        state = {f"text_model.{key}": tensor for key, tensor in state.items()}
    _assign(model, state, path)
    embeddings = getattr(model, "text_model", model).embeddings
    embeddings.position_ids = torch.arange(model.config.max_position_embeddings)[None]
    return model


def _fill(cls: type[Module], config: Mapping[str, Any], state: State, path: Path) -> Module:
    with torch.device("meta"):
        model = cls.from_config(dict(config))
    _assign(model, state, path)
    return model


def _assign(model: nn.Module, state: State, path: Path) -> None:
    """Makes the tensors the model's weights, without copying. Raises UserError unless they are exactly its own."""
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - state.keys()):
        raise UserError("model.tensors_missing", path=path, count=len(missing), names=_first(missing))
    if unexpected := sorted(state.keys() - wanted.keys()):
        raise UserError("model.tensors_unexpected", path=path, count=len(unexpected), names=_first(unexpected))
    if wrong := [key for key in wanted if wanted[key].shape != state[key].shape]:
        raise UserError("model.tensors_misshapen", path=path, count=len(wrong), names=_first(wrong))
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False).eval()


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _read_part(folder: Path, part: str, dtype: torch.dtype) -> State:
    state: State = {}
    for file in part_files(folder, part):
        state |= Checkpoint(file).part("", dtype)
    return state


class Checkpoint:
    """A .safetensors or .ckpt file, read one network at a time. Nothing in it is ever run."""

    def __init__(self, path: Path):
        header = read_header(path)
        self._path = path
        self.keys = list(header.tensors)
        self._is_pickle = header.container == "pickle"

    def part(self, prefix: str, dtype: torch.dtype) -> State:
        """The tensors whose names begin with ``prefix``, without it, in ``dtype`` and as copies of their own."""
        keys = sd_keys.part_keys(self.keys, prefix)
        if self._is_pickle:
            state = _load_pickle(self._path)
            tensors = {key: state[key].to(dtype, copy=True) for key in keys}
        else:
            tensors = read_tensors(self._path, keys, dtype)
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


class _Ignored:
    """Stands for the records that training tools leave in a .ckpt beside the weights."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _load_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a file written by torch.save, mapped from the disk where its format allows."""
    stubs = [(_Ignored, name) for name in _foreign_names(path) if name.startswith(("pytorch_lightning.", "numpy."))]
    try:
        with torch.serialization.safe_globals(stubs):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError("model.holds_code", path=path, names=", ".join(_foreign_names(path)[:3]) or "?") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise UserError("model.damaged", path=path) from error
    content = content if isinstance(content, dict) else {}
    if isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _foreign_names(path: Path) -> list[str]:
    """Functions and classes the file names that weights alone do not need."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (RuntimeError, ValueError, pickle.UnpicklingError):
        return []
