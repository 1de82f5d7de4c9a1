"""Stable Diffusion 1 from every kind of file, against diffusers and transformers reading the same weights."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from lora_core.errors import UserError
from lora_core.families.base import Components, Conditioning, ModelFamily
from lora_core.settings import Sd1Model
from tests.models import TinyParts, ldm_state, tiny_ldm_file, tiny_parts, tiny_sd_folder

CPU = torch.device("cpu")


def load(family: ModelFamily, base: Path, dtype: torch.dtype = torch.float32, **settings: object) -> Components:
    """A model with all its parts read."""
    components = family.load(Sd1Model(base=str(base), **settings), dtype=dtype, device=CPU)
    for part in ("unet", "text_encoder", "vae"):
        components.part(part)
    return components


@pytest.fixture(scope="module")
def twin(tiny_folder: Path) -> TinyParts:
    """The same weights as diffusers and transformers load them."""
    return TinyParts(
        UNet2DConditionModel.from_pretrained(tiny_folder / "unet", local_files_only=True),
        AutoencoderKL.from_pretrained(tiny_folder / "vae", local_files_only=True),
        CLIPTextModel.from_pretrained(tiny_folder / "text_encoder", local_files_only=True),
    )


@pytest.fixture(scope="module", params=["folder", "safetensors", "ckpt"])
def base(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "folder":
        return tiny_folder
    return tiny_ldm_file(tmp_path_factory.mktemp("base") / f"model.{request.param}")


@pytest.fixture(scope="module")
def loaded(sd1: ModelFamily, base: Path) -> Components:
    return load(sd1, base)


@torch.no_grad()
def test_unet_predicts_what_the_twin_predicts(sd1: ModelFamily, loaded: Components, twin: TinyParts):
    noisy, text, t = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 64), torch.tensor([10, 900])
    assert torch.equal(sd1.predict(loaded, noisy, t, Conditioning({"hidden": text})), twin.unet(noisy, t, text).sample)


@torch.no_grad()
def test_text_encoder_says_what_the_twin_says(sd1: ModelFamily, loaded: Components, twin: TinyParts):
    ids = loaded.tokenizer("usu bear", padding="max_length", max_length=77, return_tensors="pt").input_ids
    expected = twin.text_encoder(ids).last_hidden_state
    assert torch.equal(sd1.encode_prompts(loaded, ["usu bear"], Sd1Model()).hidden, expected)


@torch.no_grad()
def test_vae_sees_and_draws_what_the_twin_does(sd1: ModelFamily, loaded: Components, twin: TinyParts):
    pixels, latents = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 4, 8, 8)
    mean, std = sd1.encode_images(loaded, pixels)
    posterior = twin.vae.encode(pixels).latent_dist
    # 1x1 convolutions and linear layers of the attention may sum in another order
    torch.testing.assert_close(mean, posterior.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(std, posterior.std, rtol=1e-5, atol=1e-5)
    drawn = sd1.decode(loaded, sd1.scale_latents(loaded, latents))
    torch.testing.assert_close(drawn, twin.vae.decode(latents).sample, rtol=1e-5, atol=1e-5)


def test_a_loaded_model_is_frozen_complete_and_whole(loaded: Components):
    for network in (loaded.denoiser, loaded.vae, loaded.text_encoder):
        assert not network.training
        tensors = [*network.parameters(), *network.buffers()]
        assert not any(tensor.is_meta or tensor.requires_grad for tensor in tensors)
    assert loaded.vae_factor == 8


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("wanted", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_number_formats(sd1: ModelFamily, tmp_path: Path, stored: torch.dtype, wanted: torch.dtype):
    components = load(sd1, tiny_ldm_file(tmp_path / "m.safetensors", dtype=stored), wanted)
    assert {p.dtype for p in components.denoiser.parameters()} == {wanted}
    assert {p.dtype for p in components.text_encoder.parameters()} == {wanted}
    assert {p.dtype for p in components.vae.parameters()} == {torch.float32}


def test_a_part_is_read_when_it_is_asked_for_and_again_after_it_was_freed(sd1: ModelFamily, base: Path):
    components = sd1.load(Sd1Model(base=str(base)), dtype=torch.float32, device=CPU)
    assert not components.loaded
    before = components.vae
    assert components.vae is before
    assert list(components.loaded) == ["vae"]
    components.free("vae")
    assert not components.loaded
    assert components.vae is not before
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), components.vae.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in components.vae.parameters())
    assert not components.vae.training


def test_the_file_can_be_removed_after_loading(sd1: ModelFamily, tmp_path: Path):
    path = tiny_ldm_file(tmp_path / "m.safetensors")
    components = load(sd1, path)
    path.write_bytes(b"")
    assert all(torch.isfinite(p).all() for p in components.denoiser.parameters())


def test_what_nothing_reads_is_left_out(sd1: ModelFamily, tmp_path: Path, loaded: Components):
    state = ldm_state(tiny_parts())
    state["model_ema.diffusion_modelinput_blocks00weight"] = torch.zeros(3)
    state["model_ema.decay"] = torch.tensor(0.99)
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None].float()
    state["cond_stage_model.transformer.text_projection.weight"] = torch.zeros(64, 64)
    state["betas"] = torch.zeros(1000)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "m.safetensors")
    ours = load(sd1, tmp_path / "m.safetensors").denoiser.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in loaded.denoiser.state_dict().items())


def test_text_encoder_keys_without_text_model(sd1: ModelFamily, tmp_path: Path, loaded: Components):
    state = {k.replace("transformer.text_model.", "transformer."): v for k, v in ldm_state(tiny_parts()).items()}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "m.safetensors")
    ours = load(sd1, tmp_path / "m.safetensors").text_encoder.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in loaded.text_encoder.state_dict().items())


MIDDLE = "model.diffusion_model.middle_block"
FAULTS = {
    "model.tensors_missing": lambda state: state.pop(f"{MIDDLE}.1.proj_in.weight"),
    "model.tensors_unexpected": lambda state: state.update({"model.diffusion_model.extra.weight": torch.ones(2)}),
    "model.tensors_misshapen": lambda state: state.update(
        {"model.diffusion_model.middle_block.2.in_layers.0.bias": torch.ones(7)}
    ),
}


@pytest.mark.parametrize("key", FAULTS)
def test_weights_that_do_not_fit_are_counted_and_named(sd1: ModelFamily, tmp_path: Path, key: str):
    state = ldm_state(tiny_parts())
    FAULTS[key](state)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "m.safetensors")
    with pytest.raises(UserError) as caught:
        load(sd1, tmp_path / "m.safetensors")
    assert caught.value.key == key
    assert caught.value.values["count"] == 1


def test_a_part_without_which_no_shape_can_be_read(sd1: ModelFamily, tmp_path: Path):
    state = ldm_state(tiny_parts())
    del state["model.diffusion_model.out.2.weight"]
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "m.safetensors")
    with pytest.raises(UserError) as caught:
        load(sd1, tmp_path / "m.safetensors")
    assert caught.value.key == "model.tensors_missing"


@pytest.mark.parametrize("kind", ["ldm", "ldm with prefix", "diffusers", "folder", "whole folder", "whole file"])
def test_a_separate_vae(sd1: ModelFamily, tmp_path: Path, tiny_file: Path, kind: str):
    other = tiny_parts(seed=1)
    ldm = {k: v.contiguous() for k, v in ldm_state(other).items() if k.startswith("first_stage_model.")}
    path = tmp_path / "vae.safetensors"
    if kind == "ldm":
        save_file({k.removeprefix("first_stage_model."): v for k, v in ldm.items()}, path)
    elif kind == "ldm with prefix":
        save_file(ldm, path)
    elif kind == "diffusers":
        save_file({k: v.contiguous() for k, v in other.vae.state_dict().items()}, path)
    elif kind == "folder":
        other.vae.save_pretrained(path := tmp_path / "vae")
    elif kind == "whole folder":
        path = tiny_sd_folder(tmp_path / "whole", seed=1, tokenizer=False)
    else:
        path = tiny_ldm_file(path, seed=1)
    components = load(sd1, tiny_file, vae=path)
    assert components.source.vae_name == path.name
    loaded = components.vae.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in other.vae.state_dict().items())


def test_a_model_without_vae_takes_the_one_given(sd1: ModelFamily, tmp_path: Path):
    state = {k: v.contiguous() for k, v in ldm_state(tiny_parts()).items() if not k.startswith("first_stage_model.")}
    save_file(state, tmp_path / "novae.safetensors")
    with pytest.raises(UserError) as caught:
        load(sd1, tmp_path / "novae.safetensors")
    assert caught.value.key == "model.no_vae"
    load(sd1, tmp_path / "novae.safetensors", vae=tiny_ldm_file(tmp_path / "vae.safetensors"))


def test_folder_of_half_precision_variants(sd1: ModelFamily, tmp_path: Path):
    components = load(sd1, tiny_sd_folder(tmp_path / "m", dtype=torch.float16, variant="fp16"), torch.float16)
    assert components.dtype == torch.float16


def test_folder_with_old_names_and_bin_files(sd1: ModelFamily, tmp_path: Path, loaded: Components):
    """As the folder of Stable Diffusion 1.5 itself is: .bin files, old attention names in the VAE."""
    folder = tiny_sd_folder(tmp_path / "m", tokenizer=False)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part, name in {
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    }.items():
        file = folder / part / f"{name}.safetensors"
        state = load_file(file)
        if part == "vae":
            for new, before in old.items():
                state = {k.replace(f"attentions.0.{new}.", f"attentions.0.{before}."): v for k, v in state.items()}
        if part == "text_encoder":
            state = {f"text_model.{k}": v for k, v in state.items()}
            name = "pytorch_model"
        torch.save(state, folder / part / f"{name}.bin")
        file.unlink()
    components = load(sd1, folder)
    for ours, theirs in ((components.vae, loaded.vae), (components.text_encoder, loaded.text_encoder)):
        assert all(torch.equal(ours.state_dict()[key], tensor) for key, tensor in theirs.state_dict().items())


def test_folder_whose_unet_is_cut_in_pieces(sd1: ModelFamily, tmp_path: Path):
    folder = tiny_sd_folder(tmp_path / "m", tokenizer=False)
    unet = tiny_parts().unet
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="1MB")
    assert len(list((folder / "unet").glob("*-of-*"))) > 1
    components = load(sd1, folder)
    assert all(torch.equal(components.denoiser.state_dict()[k], v) for k, v in unet.state_dict().items())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_prediction_type_of_a_folder(sd1: ModelFamily, tmp_path: Path, prediction: str):
    components = load(sd1, tiny_sd_folder(tmp_path / "m", prediction_type=prediction, tokenizer=False))
    assert components.prediction_type == sd1.noise_process(components).prediction_type == prediction


def test_prediction_type_of_a_file_from_its_metadata(sd1: ModelFamily, tmp_path: Path):
    path = tiny_ldm_file(tmp_path / "m.safetensors", metadata={"modelspec.prediction_type": "v"})
    assert load(sd1, path).prediction_type == "v_prediction"


def test_an_unknown_scheduler_is_named(sd1: ModelFamily, tmp_path: Path):
    folder = tiny_sd_folder(tmp_path / "m", tokenizer=False)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_schedule": "squaredcos_cap_v2"}))
    with pytest.raises(UserError, match="squaredcos_cap_v2"):
        load(sd1, folder)


def test_nothing_asks_the_network(
    sd1: ModelFamily, tiny_file: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object, **kwargs: object):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    for base in (tiny_file, tiny_folder):
        load(sd1, base)


def test_hashes_of_the_source(sd1: ModelFamily, loaded: Components, base: Path):
    if base.is_dir():
        assert loaded.source.sha256 == loaded.source.legacy_hash == "NOFILE"
    else:
        assert len(loaded.source.sha256) == 64
        assert len(loaded.source.legacy_hash) == 8
