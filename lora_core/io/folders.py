"""Diffusers folders: where each part's weights are, and what model the folder holds. Torch-free."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.io.kinds import Family, FileKind, classify
from lora_core.io.tensors import Header

_PIPELINES: tuple[tuple[str, Family], ...] = (
    ("StableDiffusionXL", "sdxl"),
    ("StableDiffusion3", "sd3"),
    ("Flux", "flux"),
)
PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""Folders of a Stable Diffusion model and the stem of their weight files. Only SDXL has a second text encoder."""
_OTHER_STEMS = {"transformer": "diffusion_pytorch_model"}
"""Folders of other families."""
_OLD_STEMS = {"text_encoder": "pytorch_model", "text_encoder_2": "pytorch_model"}


def parts_of(family: str) -> tuple[str, ...]:
    """The folders that a family's model has."""
    return tuple(part for part in PARTS if part != "text_encoder_2" or family == "sdxl")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError when it is missing or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("folder.part_missing", path=path.parent, name=path.name) from None
    except (OSError, ValueError) as error:
        raise UserError("model.damaged", path=path) from error
    if not isinstance(content, dict):
        raise UserError("model.damaged", path=path)
    return content


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The files that hold one part's weights: full precision before variants, .safetensors before .bin.

    A model cut into several files is found by its index. Raises UserError when there are none, or one is missing.
    """
    for ending in (".safetensors", ".bin"):
        plain = folder / f"{stem}{ending}"
        variants = sorted(folder.glob(f"{stem}.*{ending}"))
        variants = [path for path in variants if "-of-" not in path.name and "non_ema" not in path.name]
        if plain.is_file() or variants:
            return [plain if plain.is_file() else variants[0]]
        if indices := sorted(folder.glob(f"{stem}{ending}.index*.json")):
            return _shards(folder, indices[0])
    return []


def _shards(folder: Path, index: Path) -> list[Path]:
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    files = [folder / Path(name).name for name in names]
    for file in files:
        if not file.is_file():
            raise UserError("folder.part_missing", path=folder, name=file.name)
    return files


def part_files(folder: Path, part: str) -> list[Path]:
    """Weight files of unet, vae or text_encoder in a diffusers folder. Raises UserError when there are none."""
    files = _find_weights(folder, part)
    if not files:
        raise UserError("folder.part_missing", path=folder, name=f"{part}/{PARTS[part]}.safetensors")
    return files


def has_weights(folder: Path, part: str) -> bool:
    return bool(_find_weights(folder, part))


def _find_weights(folder: Path, part: str) -> list[Path]:
    stem = (PARTS | _OTHER_STEMS)[part]
    return weight_files(folder / part, stem) or weight_files(folder / part, _OLD_STEMS.get(part, stem))


def identify_folder(folder: Path, read_header: Callable[[Path], Header]) -> FileKind:
    """What a folder holds: a whole model, or one part of one (a VAE, say)."""
    if (folder / "model_index.json").is_file():
        return _identify_pipeline(folder, read_header)
    for stem in set(PARTS.values()):
        if (folder / "config.json").is_file() and (files := weight_files(folder, stem)):
            return classify(files[0], read_header(files[0]))
    raise UserError("folder.no_model", path=folder)


def _identify_pipeline(folder: Path, read_header: Callable[[Path], Header]) -> FileKind:
    pipeline = str(read_json(folder / "model_index.json").get("_class_name", ""))
    family: Family | None = next((family for prefix, family in _PIPELINES if pipeline.startswith(prefix)), None)
    if family not in (None, "sdxl"):
        return FileKind(folder, "checkpoint", family, "folder")
    if not pipeline.startswith(("StableDiffusion", "LatentConsistencyModel")):
        return FileKind(folder, "checkpoint", "unknown", "folder")
    unet = read_json(folder / "unet" / "config.json")
    family = family or _family_of_unet(unet)
    files = {part: part_files(folder, part) for part in parts_of(family)}
    denoiser = classify(files["unet"][0], read_header(files["unet"][0]))
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_json(path) if path.is_file() else {}
    return FileKind(
        path=folder,
        kind="checkpoint",
        family=family,
        container="folder",
        dtype=denoiser.dtype,
        prediction_type="v_prediction" if scheduler.get("prediction_type") == "v_prediction" else "epsilon",
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr")),
        is_refiner=family == "sdxl" and unet.get("cross_attention_dim") == 1280,
        in_channels=unet.get("in_channels", 4),
        size=sum(file.stat().st_size for paths in files.values() for file in paths),
        tensors=denoiser.tensors,
        has_vae=True,
        has_text_encoder=True,
    )


def _family_of_unet(config: Mapping[str, Any]) -> Family:
    """Stable Diffusion 1 or 2, which have one pipeline. A small model's text has a width that says nothing."""
    width = config.get("cross_attention_dim", 768)
    return "sd2" if width == 1024 or (width != 768 and config.get("use_linear_projection")) else "sd1"
