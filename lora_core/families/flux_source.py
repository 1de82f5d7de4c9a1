"""Where the parts of a FLUX.1 model are, and whether they are the right files. Torch-free: the form asks this too.

People have the transformer, the VAE (ae.safetensors), CLIP-L and T5 as files of their own, or all in one file, or a
diffusers folder. The headers decide; a wrong file gets a sentence at its own field.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.families.source import BUILT_IN, base_path, is_hub_name
from lora_core.families.t5_tokenizer import find_tokenizer
from lora_core.io.folders import read_json, weight_files
from lora_core.io.headers import FileKind, identify, read_header
from lora_core.io.kinds import FAMILY_NAMES
from lora_core.io.tensors import TensorInfo
from lora_core.settings.model import FluxModel

Tensors = Mapping[str, TensorInfo]
PARTS = {"unet": "transformer", "vae": "vae", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"}
"""Our names of the networks -> their folders in diffusers."""
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
FIELDS = {"unet": "model.base", "vae": "model.vae", "text_encoder": "model.clip_l", "text_encoder_2": "model.t5"}

_WORDS = ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight")
_MARKS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "unet": (
        ("", "model.diffusion_model.", "transformer."),
        ("double_blocks.0.img_attn.qkv.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
    ),
    "vae": (("", "vae.", "first_stage_model."), ("decoder.conv_in.weight",)),
    "text_encoder": (("", "text_encoders.clip_l.transformer.", "text_encoders.clip_l."), _WORDS),
    "text_encoder_2": (
        ("", "text_encoders.t5xxl.transformer.", "text_encoders.t5xxl."),
        ("encoder.block.0.layer.0.SelfAttention.q.weight",),
    ),
}
"""Part -> what may stand before its names in a file, and names that show that it is there."""
_QUANTISED = re.compile(
    r"(^|\.)(scaled_fp8|comfy_quant|scale_weight|weight_scale|scale_input|input_scale|absmax|quant_map|nested_absmax"
    r"|quant_state\..*)$"
)
"""Tensors without which a file's weights are not what they are: scaled fp8, and bitsandbytes' 4 and 8 bits."""
_KEY = {"unet": "flux", "vae": "vae", "text_encoder": "clip_l", "text_encoder_2": "t5"}
CHANNELS = 64
"""Of the latents, packed two by two. Fill, Canny and Depth read more."""


@dataclass(frozen=True)
class Place:
    """Where a network's weights are: a file and what stands before its names in it, or a folder."""

    path: Path
    prefix: str = ""

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()


@dataclass(frozen=True)
class FluxSource:
    """Where everything of a model is."""

    places: Mapping[str, Place]
    """unet, vae, text_encoder, text_encoder_2."""
    tokenizer: Path | None
    """T5's."""
    guidance: bool
    """Whether the transformer is told a guidance: dev yes, schnell no."""


def is_remote(model: FluxModel) -> bool:
    """Whether the source model is a Hugging Face name that may be downloaded: nothing is known of it yet."""
    return model.allow_download and is_hub_name(model.base.strip())


def problems(model: FluxModel) -> Iterator[tuple[str, UserError]]:
    """Everything that keeps the model from being loaded: the field and the sentence."""
    if is_remote(model):
        return
    try:
        base = base_path(model)
        check_base(base)
    except UserError as error:
        yield FIELDS["unet"], error
        return
    for part in ("vae", "text_encoder", "text_encoder_2"):
        try:
            _fits(part, find_part(model, base, part), base)
        except UserError as error:
            yield FIELDS[part], error
    if model.t5 is None or model.t5.exists():
        try:
            require_tokenizer(model, base)
        except UserError as error:
            yield FIELDS["text_encoder_2"], error


def require(model: FluxModel) -> FileKind | None:
    """What the source model is, None for a name to be downloaded. Raises the first UserError there is."""
    for _, error in problems(model):
        raise error
    return None if is_remote(model) else identify(base_path(model))


def locate(model: FluxModel, base: Path) -> FluxSource:
    """Where everything of a model in a file or folder is. Raises UserError for what is missing or wrong."""
    check_base(base)
    places = {part: find_part(model, base, part) for part in PARTS}
    for part, place in places.items():
        _fits(part, place, base)
    return FluxSource(places, find_tokenizer(_tokenizer_places(model, base)), reads_guidance(places["unet"]))


def require_tokenizer(model: FluxModel, base: Path) -> None:
    """Raises UserError unless T5's tokenizer is there or may be downloaded."""
    if find_tokenizer(_tokenizer_places(model, base)) is None and not model.allow_download:
        place = model.t5 or base
        raise UserError("t5.no_tokenizer", folder=place if place.is_dir() else place.parent)


def _tokenizer_places(model: FluxModel, base: Path) -> list[Path]:
    return [base, *([model.t5] if model.t5 else [])] if base.is_dir() else [*([model.t5] if model.t5 else []), base]


# ---- the transformer -------------------------------------------------------------------------------------------------


def check_base(path: Path) -> None:
    """Raises UserError unless the transformer of a FLUX.1 model that can be trained is there, judged by its header."""
    if str(path).endswith(BUILT_IN) and not path.exists():
        raise UserError("flux.built_in")
    kind = identify(path)
    if kind.kind in {"lora", "vae", "text_encoder", "embedding", "controlnet"}:
        raise UserError(f"model.is_{kind.kind}", path=path)
    if kind.kind == "unknown" or kind.family == "unknown":
        raise UserError("flux.is_unknown", path=path)
    if kind.family != "flux":
        raise UserError("flux.other_family", path=path, family=FAMILY_NAMES[kind.family], found=kind.family)
    place = _own_place(path, "unet")
    if place is None:
        raise UserError("flux.is_unknown", path=path)
    if not place.is_folder:
        _refuse_quantised(place)
        _check_variant(place)


def _check_variant(place: Place) -> None:
    tensors = _tensors(place)
    names = {name.removeprefix(place.prefix): info for name, info in tensors.items()}
    if any(name.startswith("double_blocks.") for name in names) and "double_blocks.0.img_mod.lin.weight" not in names:
        raise UserError("flux.other_version", path=place.path)
    first = names.get("img_in.weight") or names.get("x_embedder.weight")
    if first is not None and len(first.shape) == 2 and first.shape[1] != CHANNELS:
        raise UserError("flux.other_task", path=place.path)


def reads_guidance(place: Place) -> bool:
    """Whether a transformer is told a guidance."""
    if place.is_folder:
        return bool(read_json(place.path / "config.json").get("guidance_embeds"))
    return any("guidance_in." in name or "guidance_embedder." in name for name in read_header(place.path).tensors)


# ---- every part ------------------------------------------------------------------------------------------------------


def find_part(model: FluxModel, base: Path, part: str) -> Place:
    """Where a part is: in the file or folder of its own field, else in the source model. Raises UserError."""
    given = {"unet": None, "vae": model.vae, "text_encoder": model.clip_l, "text_encoder_2": model.t5}[part]
    if given is None:
        place = _own_place(base, part)
        if place is None:
            raise UserError(f"{_KEY[part]}.not_given", path=base)
    else:
        if not given.exists():
            raise UserError(f"{_KEY[part]}.missing", path=given)
        place = _own_place(given, part)
        if place is None:
            raise UserError(f"{_KEY[part]}.is_none", path=given)
    if not place.is_folder:
        _refuse_quantised(place)
    return place


def _own_place(path: Path, part: str) -> Place | None:
    """Where a part is in a file, a whole model's folder, its own folder or a folder of files; None: nowhere."""
    if not path.is_dir():
        tensors = read_header(path).tensors
        prefixes, marks = _MARKS[part]
        prefix = next((p for p in prefixes if any(p + mark in tensors for mark in marks)), None)
        return None if prefix is None else Place(path, prefix)
    for folder in (path / PARTS[part], path):
        if (folder / "config.json").is_file() and folder_files(folder, part) and _is_config_of(part, folder):
            return Place(folder)
    files = sorted(path.glob("*.safetensors"))
    return next((place for file in files if (place := _own_place(file, part))), None)


def folder_files(folder: Path, part: str) -> list[Path]:
    """The weight files of a part's own folder; none, where there are none."""
    return weight_files(folder, _STEMS.get(part, "model"))


def _is_config_of(part: str, folder: Path) -> bool:
    config = read_json(folder / "config.json")
    named = str(config.get("_class_name") or next(iter(config.get("architectures") or []), ""))
    wanted = {"unet": "FluxTransformer", "vae": "AutoencoderKL", "text_encoder": "CLIPText", "text_encoder_2": "T5"}
    return named.startswith(wanted[part])


def _refuse_quantised(place: Place) -> None:
    for name in read_header(place.path).tensors:
        if name.startswith(place.prefix) and _QUANTISED.search(name):
            raise UserError("model.is_quantised", path=place.path)


def _fits(part: str, place: Place, base: Path) -> None:
    """Raises UserError for a VAE or text encoder of another width than the transformer reads."""
    transformer = _own_place(base, "unet")
    if transformer is None or transformer.is_folder or place.is_folder:
        return  # a whole folder is taken at its word
    found, wanted = _width(part, _tensors(place)), _read_width(part, transformer)
    if found != wanted and None not in (found, wanted):
        raise UserError(f"{_KEY[part]}.other_width", path=place.path, found=found, wanted=wanted)


def _tensors(place: Place) -> Tensors:
    tensors = read_header(place.path).tensors
    return {name.removeprefix(place.prefix): info for name, info in tensors.items() if name.startswith(place.prefix)}


def _width(part: str, tensors: Tensors) -> int | None:
    """How many numbers a part gives the transformer: latent channels, or the width of what it says of a text."""
    names = {"vae": _MARKS["vae"][1], "text_encoder": _WORDS, "text_encoder_2": ("shared.weight",)}.get(part, ())
    return next((tensors[name].shape[1] for name in names if name in tensors), None)


def _read_width(part: str, transformer: Place) -> int | None:
    tensors = _tensors(transformer)
    names = {
        "text_encoder": ("vector_in.in_layer.weight", "time_text_embed.text_embedder.linear_1.weight"),
        "text_encoder_2": ("txt_in.weight", "context_embedder.weight"),
    }.get(part, ())
    read = next((tensors[name].shape[1] for name in names if name in tensors), None)
    return CHANNELS // 4 if part == "vae" else read
