"""Stable Diffusion 1, 2 and XL from files: one file with the original keys, a diffusers folder, a separate VAE.

Never from the network.
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lora_core.errors import UserError
from lora_core.families import sd_keys
from lora_core.families.open_clip_keys import convert_open_clip
from lora_core.families.sd_keys import State
from lora_core.io.folders import part_files, read_json, weight_files
from lora_core.io.headers import FileKind, read_header
from lora_core.io.safetensors import read_tensors

Module = TypeVar("Module", bound=nn.Module)
_BUNDLED_TOKENIZER = Path(__file__).parent / "bundled" / "clip_tokenizer"


class TextFile(NamedTuple):
    """How a text encoder stands in a single file."""

    prefix: str
    open_clip: bool = False
    """Under OpenCLIP's names, and with "!" behind the end of a text."""
    last_layer: bool = True
    """Whether the last layer is read. (Stable Diffusion 2 never does.)"""
    projection: bool = False
    """Whether the text as a whole is read, too."""


TEXT_FILES: Mapping[str, Mapping[str, TextFile]] = {
    "sd1": {"text_encoder": TextFile(sd_keys.TEXT)},
    "sd2": {"text_encoder": TextFile("cond_stage_model.model.", open_clip=True, last_layer=False)},
    "sdxl": {
        "text_encoder": TextFile("conditioner.embedders.0.transformer."),
        "text_encoder_2": TextFile("conditioner.embedders.1.model.", open_clip=True, projection=True),
    },
}
"""Family -> its text encoders, by the name of their folder in diffusers."""


@dataclass
class Parts:
    """How to read the networks of a model, and what is small enough to be read at once."""

    loaders: dict[str, Callable[[], nn.Module]]
    """Of unet, vae and text encoders, on the CPU: the VAE in float32, the others in the number format asked for."""
    tokenizers: dict[str, CLIPTokenizer]
    """By the name of their text encoder."""
    scheduler: dict[str, Any]
    """diffusers' configuration of the noise schedule the model was trained with."""


def find_parts(kind: FileKind, vae: Path | None, dtype: torch.dtype) -> Parts:
    """The parts of a model in a file or folder; their weights are read when their loaders are called."""
    parts = _from_folder if kind.container == "folder" else _from_file
    return parts(kind, vae, dtype)


def _from_file(kind: FileKind, vae: Path | None, dtype: torch.dtype) -> Parts:
    path, family, read = kind.path, kind.family, Checkpoint(kind.path)
    texts = TEXT_FILES[family]
    loaders: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: build_unet(read.part(sd_keys.UNET, dtype), path, family, pooled=_pooled_width(read, family)),
        "vae": lambda: load_vae(vae, family) if vae else build_vae(read.part(sd_keys.VAE, torch.float32), path, family),
    }
    for part, text in texts.items():
        loaders[part] = partial(_text_from_file, read, text, dtype, family, part)
    tokenizers = {part: load_tokenizer(None, open_clip=text.open_clip) for part, text in texts.items()}
    said = {"prediction_type": kind.prediction_type, "rescale_betas_zero_snr": kind.zero_terminal_snr}
    return Parts(loaders, tokenizers, sd_keys.bundled_config("scheduler", family) | said)


def _pooled_width(read: "Checkpoint", family: str) -> int:
    """How wide the text as a whole is, where there is one."""
    text = next((text for text in TEXT_FILES[family].values() if text.projection), None)
    return read.shapes.get(f"{text.prefix}text_projection", (0, 0))[1] if text else 0


def _text_from_file(read: "Checkpoint", text: TextFile, dtype: torch.dtype, family: str, part: str) -> CLIPTextModel:
    state = read.part(text.prefix, dtype)
    if text.open_clip:
        if "token_embedding.weight" not in state:
            raise UserError(
                "model.tensors_missing", path=read.path, count=1, names=f"{text.prefix}token_embedding.weight"
            )
        state = convert_open_clip(state, last_layer=text.last_layer, projection=text.projection)
    return build_text_encoder(state, read.path, family, part)


def _from_folder(kind: FileKind, vae: Path | None, dtype: torch.dtype) -> Parts:
    folder, texts = kind.path, TEXT_FILES[kind.family]
    configs = {part: read_json(folder / part / "config.json") for part in ("unet", *texts)}
    scheduler = folder / "scheduler" / "scheduler_config.json"
    loaders: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: _fill(
            UNet2DConditionModel, configs["unet"], _read_part(folder, "unet", dtype), folder / "unet"
        ),
        "vae": lambda: load_vae(vae or folder / "vae", kind.family),
    }
    for part in texts:
        loaders[part] = partial(_text_from_folder, folder, part, configs[part], dtype, texts[part].projection)
    found = sd_keys.bundled_config("scheduler", kind.family) | (read_json(scheduler) if scheduler.is_file() else {})
    tokenizers = {
        part: load_tokenizer(folder / part.replace("text_encoder", "tokenizer"), open_clip=text.open_clip)
        for part, text in texts.items()
    }
    return Parts(loaders, tokenizers, found)


def _text_from_folder(
    folder: Path, part: str, config: Mapping[str, Any], dtype: torch.dtype, projection: bool
) -> CLIPTextModel:
    state = _read_part(folder, part, dtype, projection=projection)
    return _fill_text(config, state, folder / part, projection=projection)


def load_tokenizer(folder: Path | None, *, open_clip: bool = False) -> CLIPTokenizer:
    """The tokenizer of a diffusers folder if it has one, else the bundled vocabulary of CLIP.

    OpenCLIP fills up with "!" (0). diffusers' folders make that a special token, so that an exclamation mark in a text
    is read as filling. In the original code, in web UIs and in sd-scripts it is a word like any other, as it is here.
    """
    own = folder is not None and any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json"))
    path = str(folder if own else _BUNDLED_TOKENIZER)
    if not open_clip:
        return CLIPTokenizer.from_pretrained(path, local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True, pad_token="<|endoftext|>")
    tokenizer.pad_token_id = tokenizer.convert_tokens_to_ids("!")
    return tokenizer


def load_vae(path: Path, family: str = "sd1") -> AutoencoderKL:
    """A VAE in float32 from a file with LDM or diffusers keys, its own folder, or the folder of a whole model.

    A file says nothing of the spread of its latents: it is that of the family.
    """
    if path.is_dir():
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        state: State = {}
        for file in weight_files(folder, "diffusion_pytorch_model"):
            state |= Checkpoint(file).part("", torch.float32)
        return _fill(AutoencoderKL, read_json(folder / "config.json"), sd_keys.rename_old_vae(state), folder)
    read = Checkpoint(path)
    prefix = next((p for p in (sd_keys.VAE, "vae.") if any(key.startswith(p) for key in read.keys)), "")
    return build_vae(read.part(prefix, torch.float32), path, family)


def build_unet(state: State, path: Path, family: str = "sd1", *, pooled: int = 0) -> UNet2DConditionModel:
    """A U-Net from tensors in LDM names. ``pooled``: see ``sd_keys.unet_config``."""
    config = _inferred(partial(sd_keys.unet_config, family=family, pooled=pooled), state, path)
    return _fill(UNet2DConditionModel, config, sd_keys.convert_unet(state, config), path)


def build_vae(state: State, path: Path, family: str = "sd1") -> AutoencoderKL:
    """An autoencoder from tensors in LDM names, or in diffusers names."""
    if any(".down_blocks." in key for key in state):
        state = sd_keys.rename_old_vae(state)
        config = _inferred(partial(sd_keys.diffusers_vae_config, family=family), state, path)
        return _fill(AutoencoderKL, config, state, path)
    state = {key: t for key, t in state.items() if not key.startswith(("loss.", "model_ema."))}
    config = _inferred(partial(sd_keys.vae_config, family=family), state, path)
    return _fill(AutoencoderKL, config, sd_keys.convert_vae(state, config), path)


def build_text_encoder(state: State, path: Path, family: str = "sd1", part: str = "text_encoder") -> CLIPTextModel:
    """A CLIP text encoder from tensors with or without ``text_model.`` in their names; with its projection if there."""
    infer = partial(sd_keys.text_config, family=family, part=part)
    config = _inferred(infer, sd_keys.rename_text(state), path)
    return _fill_text(config, state, path, projection="text_projection.weight" in state)


def _inferred(infer: Any, state: State, path: Path) -> dict[str, Any]:
    """Configuration by the shapes of the weights. A shape that is not there to be read is a missing tensor."""
    try:
        return infer({key: tuple(tensor.shape) for key, tensor in state.items()})
    except KeyError as error:
        raise UserError("model.tensors_missing", path=path, count=1, names=error.args[0]) from None


def _fill_text(
    config: Mapping[str, Any], state: State, path: Path, *, projection: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(CLIPTextConfig(**config))
    wanted = model.state_dict()  # transformers before 5.6, and the model with projection, say text_model. before most
    state = {
        key if key in wanted else f"text_model.{key}" if f"text_model.{key}" in wanted else key: tensor
        for key, tensor in sd_keys.rename_text(state).items()
    }
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


def _read_part(folder: Path, part: str, dtype: torch.dtype, *, projection: bool = False) -> State:
    state: State = {}
    for file in part_files(folder, part):
        state |= Checkpoint(file).part("", dtype, projection=projection)
    return state


class Checkpoint:
    """A .safetensors or .ckpt file, read one network at a time. Nothing in it is ever run."""

    def __init__(self, path: Path):
        header = read_header(path)
        self.path = path
        self.keys = list(header.tensors)
        self.shapes = {name: info.shape for name, info in header.tensors.items()}
        self._is_pickle = header.container == "pickle"

    def part(self, prefix: str, dtype: torch.dtype, *, projection: bool = False) -> State:
        """The tensors whose names begin with ``prefix``, without it, in ``dtype`` and as copies of their own.

        ``projection``: also the text's, which only SDXL reads, though many files have one.
        """
        keys = sd_keys.part_keys(self.keys, prefix, projection=projection)
        if self._is_pickle:
            state = _load_pickle(self.path)
            tensors = {key: state[key].to(dtype, copy=True) for key in keys}
        else:
            tensors = read_tensors(self.path, keys, dtype)
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
