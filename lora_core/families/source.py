"""Where the source model is, and whether it is one that can be trained. Torch-free: the form asks this too."""

import re
from collections.abc import Iterable
from os.path import exists, isdir
from pathlib import Path

from lora_core.errors import UserError
from lora_core.families import FAMILIES
from lora_core.io.folders import PARTS, has_weights, read_json
from lora_core.io.headers import FileKind, identify
from lora_core.io.kinds import FAMILY_NAMES
from lora_core.settings import AnyModel, FluxModel, ModelSettings
from lora_core.settings.base import clean_path

BUILT_IN = "built-in"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_CONFIGS = ["model_index.json", "*/*.json", "tokenizer/*", "tokenizer_2/*"]
_SD_FAMILIES = frozenset({"sd1", "sd2", "sdxl"})
"""Their VAEs have one shape, so that one can't be told from another by its weights."""


def is_hub_name(base: str) -> bool:
    """True for "owner/name" that is no path on this machine."""
    return bool(_HUB_NAME.fullmatch(base)) and not base.endswith(_FILE_ENDINGS) and not exists(base)


def base_path(model: ModelSettings) -> Path:
    """The source model as a path. "built-in" is the small model that comes along.

    Raises UserError for an empty field and for a Hugging Face name, which is no path.
    """
    base = clean_path(model.base)
    if not base:
        raise UserError("model.not_given")
    if base == BUILT_IN:
        from lora_core.demo import MINI_MODEL

        return MINI_MODEL
    if is_hub_name(base):
        raise UserError("model.hub_not_allowed" if not model.allow_download else "model.hub_is_no_path", name=base)
    path = Path(base)
    return path.parent if path.name == "model_index.json" else path


def files_of(model: AnyModel) -> dict[str, Path]:
    """The files or folders that a model is read from, by their settings; none for one that is not on this machine.

    Raises UserError as ``base_path`` does.
    """
    base = {} if model.allow_download and is_hub_name(model.base.strip()) else {"base": base_path(model)}
    others = {name: getattr(model, name, None) for name in ("vae", "clip_l", "t5")}
    return base | {name: path for name, path in others.items() if path is not None}


def require_base(model: AnyModel) -> FileKind | None:
    """Raises UserError unless the source model can be trained, judged by its header; then looks at the separate VAE.

    The keys of what is wrong with the VAE begin with "vae.", so that it is shown at its own field.
    Returns None for a Hugging Face name that may be downloaded: nothing is known of it yet.
    """
    if isinstance(model, FluxModel):
        from lora_core.families import flux_source  # asks this module for the path

        return flux_source.require(model)
    hub = model.allow_download and is_hub_name(model.base.strip())
    kind = None if hub else check_base(identify(base_path(model)), model.family, separate_vae=model.vae is not None)
    if model.vae is not None:
        require_vae(model.vae, model.family)
    return kind


def check_base(kind: FileKind, family: str = "sd1", *, separate_vae: bool = False) -> FileKind:
    """Raises UserError unless the file is a whole model of the family."""
    path = kind.path
    if kind.kind in {"lora", "vae", "text_encoder", "embedding", "controlnet"}:
        raise UserError(f"model.is_{kind.kind}", path=path)
    if kind.kind == "unknown" or kind.family == "unknown":
        raise UserError("model.is_unknown", path=path)
    if kind.family not in FAMILIES:
        raise UserError("model.no_such_family", path=path, family=FAMILY_NAMES[kind.family])
    if kind.family != family:
        names = {"family": FAMILY_NAMES[kind.family], "chosen": FAMILY_NAMES[family]}
        raise UserError("model.other_family", path=path, found=kind.family, **names)
    if kind.is_refiner:
        raise UserError("model.is_refiner", path=path)
    if kind.kind == "unet":
        raise UserError("model.is_unet", path=path)
    if kind.in_channels != 4:
        raise UserError("model.is_inpainting", path=path)
    if not kind.has_text_encoder:
        raise UserError("model.no_text_encoder", path=path)
    if not kind.has_vae and not separate_vae:
        raise UserError("model.no_vae", path=path)
    return kind


def require_vae(path: Path, family: str = "sd1") -> FileKind:
    """Raises UserError unless the path is a VAE for the family: a file, its folder, or a whole model's folder."""
    if isdir(path) and (path / "vae" / "config.json").is_file():
        path = path / "vae"
    if not exists(path):
        raise UserError("vae.missing", path=path)
    try:
        kind = identify(path)
    except UserError as error:
        raise UserError("vae.is_none" if error.key == "folder.no_model" else "vae.unreadable", path=path) from error
    if not kind.has_vae:
        raise UserError("vae.is_none", path=path)
    if kind.kind == "vae" and (kind.family in _SD_FAMILIES) != (family in _SD_FAMILIES):
        raise UserError("vae.other_family", path=path, family=FAMILY_NAMES[family])
    return kind


def download(name: str, parts: Iterable[str] | None = None) -> Path:
    """Folder of a Hugging Face model with its parts (None: those its index names), in the user's cache.

    Only called when the user allowed it. Half-precision copies are fetched only where a model has nothing else.
    """
    from huggingface_hub import snapshot_download

    folder, parts = Path(), None if parts is None else list(parts)
    wanted = _CONFIGS + [f"{part}/*.safetensors" for part in parts or PARTS]
    for ignored in (["*.fp16.*", "*non_ema*", "*ema_only*"], ["*non_ema*"]):
        try:
            folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=ignored))
        except (OSError, ValueError) as error:  # no network, no such model, not a name: all are these
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError("model.download_failed", name=name, reason=reason) from error
        if all((folder / part).is_dir() and has_weights(folder, part) for part in parts or _parts_named(folder)):
            return folder
    raise UserError("folder.no_model", path=name)


def _parts_named(folder: Path) -> list[str]:
    """The networks that a model's index names; those of Stable Diffusion 1 where it can't be read."""
    try:
        index = read_json(folder / "model_index.json")
    except UserError:
        index = {}
    return [part for part in PARTS if part in index] or ["unet", "vae", "text_encoder"]
