"""Merged, resized, converted and cleaned files as diffusers reads them: the model answers as with ours attached."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from lora_core.adapters import AdapterNetwork
from lora_core.adapters.files import save_lora
from lora_core.families import FAMILIES
from lora_core.io.safetensors import read_tensors
from lora_core.merge.combine import merge
from lora_core.merge.convert import clean, convert
from lora_core.merge.resize import resize
from lora_core.settings import Sd1Model
from lora_core.settings.tools import CleanSettings, ConvertSettings, LoraSource, MergeSettings, ResizeSettings
from tests.adapters.helpers import make_network, randomise
from tests.models import tiny_sd_folder

RATIOS = (0.7, -0.4)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A tiny model and two LoRAs of different rank and alpha for it."""
    home = tmp_path_factory.mktemp("studio")
    folder = tiny_sd_folder(home / "model")
    components = FAMILIES["sd1"].load(Sd1Model(base=str(folder)), dtype=torch.float32, device=torch.device("cpu"))
    targets = FAMILIES["sd1"].adapter_targets(components, text_parts=("text_encoder",))
    for seed, name in enumerate("ab"):
        network = randomise(make_network(targets, seed=seed, rank=3 + seed, alpha=1.0 + seed), seed)
        save_lora(network, {"ss_base_model_version": "sd_v1"}, home / f"{name}.safetensors", "float")
    return home, folder, components, targets


def answers(text_encoder, unet):
    tokens = torch.randint(0, 40_000, (2, 77), generator=torch.Generator().manual_seed(0))
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return unet(noisy, torch.tensor([3, 900]), text_encoder(tokens).last_hidden_state).sample


def with_ours(studio, parts):
    """The answer with networks attached side by side, each at its strength."""
    home, _, components, targets = studio
    networks = [AdapterNetwork.from_kohya(targets, read_tensors(home / f"{name}.safetensors")) for name in parts]
    for network, strength in zip(networks, parts.values(), strict=True):
        network.multiplier = strength
        network.attach()
    try:
        return answers(components.text_encoder, components.denoiser)
    finally:
        for network in reversed(networks):
            network.detach()


def in_diffusers(studio, path):
    pipe = StableDiffusionPipeline.from_pretrained(studio[1], safety_checker=None, local_files_only=True)
    pipe.load_lora_weights(path.parent, weight_name=path.name)
    return answers(pipe.text_encoder, pipe.unet)


def made(tool, settings_class, studio, name, **options):
    output = studio[0] / f"{name}.safetensors"
    list(tool(settings_class(output=output, precision="float", overwrite=True, **options)))
    return output


@pytest.mark.parametrize("method", ["svd", "concat"])
def test_a_merge(studio, method):
    loras = [LoraSource(path=studio[0] / f"{n}.safetensors", ratio=r) for n, r in zip("ab", RATIOS, strict=True)]
    path = made(merge, MergeSettings, studio, f"merged-{method}", loras=loras, method=method)
    wanted = with_ours(studio, dict(zip("ab", RATIOS, strict=True)))
    torch.testing.assert_close(in_diffusers(studio, path), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(with_ours(studio, {path.stem: 1.0}), wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - with_ours(studio, {"a": 0.0})).abs().max() > 0.01


def test_a_resize_to_the_same_rank(studio):
    path = made(resize, ResizeSettings, studio, "resized", lora=studio[0] / "a.safetensors", rank=3)
    torch.testing.assert_close(in_diffusers(studio, path), with_ours(studio, {"a": 1.0}), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("names", ["diffusers", "peft"])
def test_names_of_diffusers(studio, names):
    path = made(convert, ConvertSettings, studio, f"as-{names}", lora=studio[0] / "b.safetensors", names=names)
    if names == "diffusers":
        torch.testing.assert_close(in_diffusers(studio, path), with_ours(studio, {"b": 1.0}), rtol=1e-4, atol=1e-4)
    back = made(convert, ConvertSettings, studio, f"{names}-back", lora=path, names="kohya")
    torch.testing.assert_close(with_ours(studio, {back.stem: 1.0}), with_ours(studio, {"b": 1.0}), rtol=1e-4, atol=1e-4)


def test_a_cleaned_file(studio):
    path = made(clean, CleanSettings, studio, "cleaned", lora=studio[0] / "a.safetensors")
    torch.testing.assert_close(in_diffusers(studio, path), with_ours(studio, {"a": 1.0}), rtol=1e-4, atol=1e-4)
