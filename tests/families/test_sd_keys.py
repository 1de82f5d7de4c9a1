"""The key table of the real Stable Diffusion 1.5 against the bundled configurations and against diffusers."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lora_core.families import sd_keys
from lora_core.families.base import Components, ModelSource
from lora_core.families.sd import TEXT_BLOCKS, UNET_BLOCKS, StableDiffusion1, projections
from tests.models import sd15_shapes

MODULES = json.loads(gzip.decompress((Path(__file__).parent / "sd15_lora_modules.json.gz").read_bytes()))


def part(prefix: str) -> dict[str, tuple[int, ...]]:
    return {key.removeprefix(prefix): shape for key, shape in sd15_shapes().items() if key.startswith(prefix)}


@pytest.mark.parametrize(
    ("name", "infer", "shapes"),
    [
        ("unet", sd_keys.unet_config, part(sd_keys.UNET)),
        ("vae", sd_keys.vae_config, part(sd_keys.VAE)),
        ("text_encoder", sd_keys.text_config, part(sd_keys.TEXT + "text_model.")),
    ],
)
def test_shapes_of_sd15_say_the_bundled_configuration(name, infer, shapes):
    assert infer(shapes) == sd_keys.bundled_config(name)


@pytest.fixture(scope="module")
def networks() -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """Stable Diffusion 1.5 in full size, without memory."""
    with torch.device("meta"):
        return (
            UNet2DConditionModel.from_config(sd_keys.bundled_config("unet")),
            AutoencoderKL.from_config(sd_keys.bundled_config("vae")),
            CLIPTextModel(CLIPTextConfig(**sd_keys.bundled_config("text_encoder"))),
        )


def hollow(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that share one number each: distinct storage, no memory."""
    return {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_every_key_of_sd15_finds_its_place(networks, name):
    prefix = {"unet": sd_keys.UNET, "vae": sd_keys.VAE, "text_encoder": sd_keys.TEXT}[name]
    convert = {
        "unet": lambda state: sd_keys.convert_unet(state, sd_keys.bundled_config("unet")),
        "vae": lambda state: sd_keys.convert_vae(state, sd_keys.bundled_config("vae")),
        "text_encoder": sd_keys.rename_text,
    }[name]
    converted = {key: tuple(tensor.shape) for key, tensor in convert(hollow(part(prefix))).items()}
    network = networks[["unet", "vae", "text_encoder"].index(name)]
    wanted = {key.removeprefix("text_model."): tuple(t.shape) for key, t in network.state_dict().items()}
    assert converted == wanted


def components_of(networks):
    return Components.of(
        dict(zip(("unet", "vae", "text_encoder"), networks, strict=True)),
        device=torch.device("meta"),
        dtype=torch.float32,
        source=ModelSource("x", Path("x")),
        tokenizers={},
    )


def test_adapter_targets_of_sd15_have_the_names_other_programs_expect(networks):
    components = components_of(networks)
    targets = StableDiffusion1().adapter_targets(components, text_parts=("text_encoder",))
    assert [t.part for t in targets] == ["text_encoder"] * 72 + ["unet"] * 192
    shapes = {target.name: list(target.module.weight.shape) for target in targets}
    assert shapes == MODULES["text_encoder"] | MODULES["unet"]


def test_with_convolutions_there_are_as_many_targets_as_in_sd_scripts(networks):
    """Its log says "create LoRA for U-Net: 278 modules" when conv_dim is given."""
    components = components_of(networks)
    targets = StableDiffusion1().adapter_targets(components, text_parts=("text_encoder",), convolutions=True)
    assert [t.part for t in targets] == ["text_encoder"] * 72 + ["unet"] * 278
    assert {target.name for target in targets} > MODULES["text_encoder"].keys() | MODULES["unet"].keys()


def test_unet_only_gives_no_targets_in_the_text_encoder(networks):
    components = components_of(networks)
    assert {t.part for t in StableDiffusion1().adapter_targets(components, text_parts=())} == {"unet"}


def test_targets_are_found_by_class_and_in_module_order(networks):
    unet, _, text_encoder = networks
    for network, blocks in ((unet, UNET_BLOCKS), (text_encoder, TEXT_BLOCKS)):
        order = [path for path, _ in network.named_modules()]
        found = [order.index(path) for path, _ in projections(network, blocks)]
        assert found == sorted(found)
        assert found
