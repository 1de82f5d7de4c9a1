"""The key tables of the real Stable Diffusion 2.1 and SDXL against the bundled configurations and against diffusers."""

import gzip
import json
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_core.families import FAMILIES, sd_keys
from lora_core.families.base import Components, ModelSource
from lora_core.families.open_clip_keys import convert_open_clip
from lora_core.families.sd_files import TEXT_FILES
from lora_core.merge import known

HERE = Path(__file__).parent
FILES = {"sd2": "sd21_keys.json.gz", "sdxl": "sdxl_keys.json.gz"}
PARTS = [(family, part) for family in FILES for part in ("unet", "vae", *TEXT_FILES[family])]


@cache
def shapes(family: str) -> dict[str, tuple[int, ...]]:
    table = json.loads(gzip.decompress((HERE / FILES[family]).read_bytes()))
    return {key: tuple(shape) for key, shape in table.items()}


def prefix_of(family: str, part: str) -> str:
    return {"unet": sd_keys.UNET, "vae": sd_keys.VAE}.get(part) or TEXT_FILES[family][part].prefix


def hollow(family: str, part: str) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that share one number each: distinct storage, no memory."""
    prefix = prefix_of(family, part)
    keys = sd_keys.part_keys(shapes(family), prefix)
    return {key.removeprefix(prefix): torch.zeros(1).expand(shapes(family)[key]) for key in keys}


@cache
def converted(family: str, part: str) -> dict[str, torch.Tensor]:
    state = hollow(family, part)
    config = sd_keys.bundled_config(part, family)
    if part == "unet":
        return sd_keys.convert_unet(state, config)
    if part == "vae":
        return sd_keys.convert_vae(state, config)
    text = TEXT_FILES[family][part]
    if text.open_clip:
        state = convert_open_clip(state, last_layer=text.last_layer, projection=text.projection)
    return sd_keys.rename_text(state)


@cache
def real(family: str, part: str) -> torch.nn.Module:
    config = sd_keys.bundled_config(part, family)
    with torch.device("meta"):
        if part in ("unet", "vae"):
            return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_config(config)
        cls = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        return cls(CLIPTextConfig(**config))


@pytest.mark.parametrize(("family", "part"), PARTS)
def test_every_key_finds_its_place(family: str, part: str):
    found = {key: tuple(tensor.shape) for key, tensor in converted(family, part).items()}
    wanted = {key.removeprefix("text_model."): tuple(t.shape) for key, t in real(family, part).state_dict().items()}
    assert found == wanted


@pytest.mark.parametrize("family", FILES)
def test_no_key_of_the_file_is_left_over(family: str):
    prefixes = [prefix_of(family, part) for part in ("unet", "vae", *TEXT_FILES[family])]
    assert not [key for key in shapes(family) if not key.startswith(tuple(prefixes))]


@pytest.mark.parametrize(("family", "part"), PARTS)
def test_shapes_say_the_bundled_configuration(family: str, part: str):
    infer = {
        "unet": partial(sd_keys.unet_config, pooled=1280),
        "vae": sd_keys.vae_config,
    }.get(part) or partial(sd_keys.text_config, part=part)
    state = hollow(family, part) if part in ("unet", "vae") else converted(family, part)
    found = infer({key: tuple(tensor.shape) for key, tensor in state.items()}, family=family)
    assert found == sd_keys.bundled_config(part, family)


@cache
def hollow_components(family: str) -> Components:
    modules = {part: real(family, part) for part in ("unet", *TEXT_FILES[family])}
    components = Components.of(
        modules, device=torch.device("meta"), dtype=torch.float32, source=ModelSource("x", Path("x")), tokenizers={}
    )
    return components


@pytest.fixture(scope="module")
def targets() -> dict[tuple[str, bool], list]:
    found = {}
    for name in FILES:
        family, components = FAMILIES[name], hollow_components(name)
        for convolutions in (False, True):
            found[name, convolutions] = family.adapter_targets(
                components, text_parts=family.trainable_text_parts, convolutions=convolutions
            )
    return found


def test_targets_of_sdxl_have_the_names_and_shapes_of_sd_scripts(targets):
    modules = json.loads(gzip.decompress((HERE / "sdxl_lora_modules.json.gz").read_bytes()))
    found = targets["sdxl", False]
    assert [t.part for t in found] == ["text_encoder"] * 72 + ["text_encoder_2"] * 192 + ["unet"] * 722
    assert {t.name: list(t.module.weight.shape) for t in found} == modules["unet"] | modules["text_encoders"]


def test_targets_of_sd2_are_named_as_those_of_sd1(targets):
    found = targets["sd2", False]
    assert [t.part for t in found] == ["text_encoder"] * 138 + ["unet"] * 192  # 23 layers of 24
    assert {t.name for t in found} == known.default_targets("sd2")


@pytest.mark.parametrize("family", FILES)
def test_with_convolutions_all_targets_are_layers_of_the_real_model(targets, family: str):
    """Those of ResnetBlock2D, Downsample2D and Upsample2D, as with conv_dim in sd-scripts."""
    layers = known.layers(family)
    found = {t.name: tuple(t.module.weight.shape) for t in targets[family, True]}
    assert found.items() <= layers.items()
    resnets = ("_in_layers_2", "_out_layers_3", "_emb_layers_1", "_skip_connection", "_0_op", "_conv")
    if family == "sdxl":
        added = found.keys() - {t.name for t in targets[family, False]}
        blocks = {n for n in layers if n.startswith("lora_unet_") and n.endswith(resnets)}
        assert added == blocks
    else:
        assert len(found) == 138 + 278


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_one_text_encoder_alone(part: str):
    family = FAMILIES["sdxl"]
    found = family.adapter_targets(hollow_components("sdxl"), text_parts=[part])
    assert {t.part for t in found} == {part, "unet"}


def test_a_name_that_open_clip_does_not_have_is_kept_to_be_said():
    state = hollow("sdxl", "text_encoder_2") | {"visual.proj": torch.zeros(2)}
    assert "visual.proj" in convert_open_clip(state, last_layer=True, projection=True)


def test_a_projection_of_another_width_is_transposed():
    state = {
        key: torch.randn(tensor.shape) for key, tensor in hollow("sdxl", "text_encoder_2").items() if "resbl" not in key
    }
    state["text_projection"] = torch.randn(1280, 7)
    found = convert_open_clip(state, last_layer=True, projection=True)
    assert torch.equal(found["text_projection.weight"], state["text_projection"].T)
