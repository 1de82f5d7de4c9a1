"""FLUX.1 from a diffusers folder and from the files people have, against diffusers' own pipeline."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from lora_core.errors import UserError
from lora_core.families import FAMILIES, flux_source
from lora_core.families.base import Components
from lora_core.families.flux import image_ids, pack, unpack
from lora_core.settings import FluxModel
from tests.models_flux import T5_LENGTH, all_in_one_file, save, tiny_flux_files, tiny_flux_folder

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
PROMPTS = ["a red bear in the snow", "", "usu " * 30]
FAMILY = FAMILIES["flux"]


def settings(**given: object) -> FluxModel:
    return FluxModel(
        **{"t5_max_token_length": T5_LENGTH, **{k: str(v) if isinstance(v, Path) else v for k, v in given.items()}}
    )


def load(model: FluxModel, dtype: torch.dtype = torch.float32) -> Components:
    return FAMILY.load(model, dtype=dtype, device=torch.device("cpu"))


@pytest.fixture(scope="module", params=["dev", "schnell"])
def folder(request, tmp_path_factory):
    return tiny_flux_folder(tmp_path_factory.mktemp("flux") / "モデル 1", guidance=request.param == "dev")


@pytest.fixture(scope="module")
def components(folder) -> Components:
    return load(settings(base=folder))


@pytest.fixture
def guidance(components) -> bool:
    return components.guidance


@pytest.fixture(scope="module")
def pipeline(folder):
    pipe = FluxPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def state(components: Components, part: str) -> dict[str, torch.Tensor]:
    return components.part(part).state_dict()


def assert_same(ours: Components, other: Components) -> None:
    for part in PARTS:
        a, b = state(ours, part), state(other, part)
        assert a.keys() == b.keys(), part
        assert all(torch.equal(a[key], b[key]) for key in a), part


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_separate_files_are_the_same_model_as_the_folder(components, guidance, tmp_path, prefix):
    ours = load(settings(**tiny_flux_files(tmp_path, guidance=guidance, prefix=prefix).settings))
    assert_same(ours, components)
    assert ours.guidance == guidance
    for part in ("unet", "vae"):
        assert config(ours, part) == config(components, part)


def config(components: Components, part: str) -> dict[str, object]:
    """What says how a network is built."""
    own = {k: list(v) if isinstance(v, tuple) else v for k, v in components.part(part).config.items() if k[0] != "_"}
    return {key: value for key, value in own.items() if key not in {"sample_size", "out_channels"}}


def test_one_file_with_everything_is_the_same_model(components, guidance, tmp_path):
    path = all_in_one_file(tmp_path / "all.safetensors", guidance=guidance)
    assert_same(load(settings(base=path)), components)


def test_parts_given_as_folders(folder, components, guidance, tmp_path):
    files = tiny_flux_files(tmp_path, guidance=guidance, tokenizer=False)
    model = settings(base=files.base, vae=folder, clip_l=folder / "text_encoder", t5=folder)
    assert_same(load(model), components)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_number_formats(tmp_path, stored):
    files = tiny_flux_files(tmp_path, dtype=stored)
    components = load(settings(**files.settings), torch.bfloat16)
    assert {t.dtype for t in state(components, "unet").values()} == {torch.bfloat16}
    assert {t.dtype for t in state(components, "vae").values()} == {torch.float32}
    exact = load(settings(**tiny_flux_files(tmp_path / "exact").settings))
    for key, weight in state(components, "unet").items():
        wanted = state(exact, "unet")[key].to(stored).to(torch.bfloat16)
        assert torch.equal(weight, wanted), key


def test_in_fp16_t5_keeps_what_overflows(tmp_path):
    components = load(settings(**tiny_flux_files(tmp_path).settings), torch.float16)
    kept = {key for key, t in state(components, "text_encoder_2").items() if t.dtype == torch.float32}
    assert kept == {f"encoder.block.{i}.layer.1.DenseReluDense.wo.weight" for i in range(2)}


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    components = load(settings(**tiny_flux_files(tmp_path).settings))
    assert not components.loaded
    FAMILY.tokens_cut(components, "a bear", max_token_length=3)
    assert not components.loaded
    with torch.no_grad():
        FAMILY.encode_prompts(components, ["a bear"], settings())
    assert set(components.loaded) == {"text_encoder", "text_encoder_2"}
    FAMILY.drawing(components)
    FAMILY.noise_process(components)
    assert not components.is_loaded("unet")


# ---- texts ---------------------------------------------------------------------------------------------------------


def test_texts_are_those_of_the_pipeline(components, pipeline):
    with torch.no_grad():
        hidden, pooled, _ = pipeline.encode_prompt(PROMPTS, max_sequence_length=T5_LENGTH)
        ours = FAMILY.encode_prompts(components, PROMPTS, settings(guidance=2.5), weighted=True, max_token_length=75)
    torch.testing.assert_close(ours.hidden, hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["pooled"], pooled, rtol=0, atol=1e-5)
    assert ours["guidance"].tolist() == [2.5] * 3
    assert set(ours.tensors) == {"hidden", "pooled", "guidance"}


def test_a_prompt_does_not_hang_on_its_neighbours(components):
    with torch.no_grad():
        together = FAMILY.encode_prompts(components, PROMPTS, settings())
        alone = FAMILY.encode_prompts(components, PROMPTS[:1], settings())
    assert torch.equal(together.hidden[:1], alone.hidden)


def test_padding_is_left_out_where_asked(components):
    """With the mask, what is filled up behind a caption changes nothing."""
    noisy, t = torch.randn(1, 16, 4, 4), torch.tensor([400.0])
    answers = {}
    with torch.no_grad():
        for masked in (True, False):
            for length in (16, T5_LENGTH):
                model = settings(t5_max_token_length=length, apply_t5_attn_mask=masked)
                told = FAMILY.encode_prompts(components, ["a bear"], model)
                answers[masked, length] = FAMILY.predict(components, noisy, t, told)
    torch.testing.assert_close(answers[True, 16], answers[True, T5_LENGTH], rtol=0, atol=1e-5)
    assert not torch.allclose(answers[False, 16], answers[False, T5_LENGTH], rtol=0, atol=1e-5)


def test_cut_tokens_are_counted(components):
    words = components.words
    assert FAMILY.tokens_cut(components, "a bear", max_token_length=3) == 0
    assert FAMILY.tokens_cut(components, "a bear", max_token_length=2) == 1
    prompt = "a " * 30
    cut = FAMILY.tokens_cut(components, prompt, max_token_length=T5_LENGTH)
    assert len(words.tokens(prompt)) - cut == T5_LENGTH - 1


def test_t5_is_not_needed_for_prompts_that_were_kept(folder):
    components = load(settings(base=folder))
    model = settings()
    with torch.no_grad():
        expected = FAMILY.encode_prompts(components, PROMPTS, model)
    assert list(FAMILY.keep_frozen_texts(components, PROMPTS * 2, model)) == [(i, 3) for i in (1, 2, 3)]
    assert not components.is_loaded("text_encoder_2")
    ours = FAMILY.encode_prompts(components, PROMPTS, model)
    assert torch.equal(ours.hidden, expected.hidden)
    assert not components.is_loaded("text_encoder_2")
    FAMILY.encode_prompts(components, ["new"], model)
    assert components.is_loaded("text_encoder_2")


# ---- the transformer -----------------------------------------------------------------------------------------------


def test_tokens_and_places_are_those_of_the_pipeline():
    latents = torch.randn(2, 16, 6, 10)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, 6, 10))
    assert torch.equal(unpack(pack(latents), 6, 10), latents)
    expected = FluxPipeline._prepare_latent_image_ids(1, 3, 5, torch.device("cpu"), torch.float32)
    assert torch.equal(image_ids(3, 5, torch.device("cpu")), expected)


def test_a_prediction_is_that_of_the_plain_transformer(components, pipeline):
    model = settings(guidance=3.5)
    noisy, t = torch.randn(2, 16, 4, 6), torch.tensor([1000.0, 31.25])
    with torch.no_grad():
        told = FAMILY.encode_prompts(components, PROMPTS[:2], model)
        expected = pipeline.transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, 2, 16, 4, 6),
            timestep=t / 1000,
            guidance=torch.full((2,), 3.5) if components.guidance else None,
            pooled_projections=told["pooled"],
            encoder_hidden_states=told.hidden,
            txt_ids=torch.zeros(T5_LENGTH, 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, 2, 3, torch.device("cpu"), torch.float32),
        ).sample
        expected = FluxPipeline._unpack_latents(expected, 32, 48, 8)
        ours = FAMILY.predict(components, noisy, t, told)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


# ---- wrong files ---------------------------------------------------------------------------------------------------


def said(model: FluxModel) -> list[tuple[str, str]]:
    return [(field, error.key) for field, error in flux_source.problems(model)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_flux_files(tmp_path_factory.mktemp("files"))


def test_right_files_have_no_problems(files, folder):
    assert said(settings(**files.settings)) == []
    assert said(settings(base=folder)) == []
    assert flux_source.require(settings(**files.settings)).family == "flux"


def test_missing_files_are_asked_for_at_their_fields(files):
    expected = [("model.vae", "vae.not_given"), ("model.clip_l", "clip_l.not_given"), ("model.t5", "t5.not_given")]
    assert said(settings(base=files.base)) == expected


@pytest.mark.parametrize(
    ("changes", "field", "key"),
    [
        ({"base": "vae"}, "model.base", "model.is_vae"),
        ({"base": "clip_l"}, "model.base", "model.is_text_encoder"),
        ({"base": "t5"}, "model.base", "model.is_text_encoder"),
        ({"vae": "t5"}, "model.vae", "vae.is_none"),
        ({"vae": "base"}, "model.vae", "vae.is_none"),
        ({"clip_l": "t5"}, "model.clip_l", "clip_l.is_none"),
        ({"clip_l": "vae"}, "model.clip_l", "clip_l.is_none"),
        ({"t5": "clip_l"}, "model.t5", "t5.is_none"),
        ({"t5": "base"}, "model.t5", "t5.is_none"),
    ],
)
def test_a_file_in_the_wrong_field_gets_a_sentence(files, changes, field, key):
    given = files.settings | {name: files.settings[other] for name, other in changes.items()}
    assert said(settings(**given))[0] == (field, key)
    with pytest.raises(UserError) as error:
        load(settings(**given))
    assert error.value.key == key


@pytest.mark.parametrize("name", ["vae", "clip_l", "t5"])
def test_a_path_that_is_not_there(files, name, tmp_path):
    assert said(settings(**files.settings | {name: str(tmp_path / "no.safetensors")}))[0] == (
        f"model.{name}",
        f"{name}.missing",
    )


def broken(tmp_path: Path, name: str, tensors: dict[str, torch.Tensor], files) -> FluxModel:
    """The settings with one file in place of which stands another."""
    path = save(tensors, tmp_path / f"{name}.safetensors")
    return settings(**files.settings | {name: str(path)})


def transformer(**changes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    names = {
        "double_blocks.0.img_attn.qkv.weight": (192, 64),
        "double_blocks.0.img_mod.lin.weight": (384, 64),
        "img_in.weight": (64, 64),
        "vector_in.in_layer.weight": (64, 64),
        "txt_in.weight": (64, 32),
    }
    return {name: torch.zeros(shape) for name, shape in (names | changes).items() if shape}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"double_blocks.0.img_mod.lin.weight": ()}, "flux.other_version"),
        ({"img_in.weight": (64, 384)}, "flux.other_task"),
        ({"double_blocks.0.img_attn.qkv.scale_weight": (1,)}, "model.is_quantised"),
        ({"double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__nf4": (1,)}, "model.is_quantised"),
        ({"scaled_fp8": (1,)}, "model.is_quantised"),
    ],
)
def test_relatives_of_flux_get_a_sentence(tmp_path, files, changes, key):
    assert said(broken(tmp_path, "base", transformer(**changes), files))[0][1] == key


@pytest.mark.parametrize(
    ("name", "tensors", "key"),
    [
        ("vae", {"decoder.conv_in.weight": (8, 4, 3, 3)}, "vae.other_width"),
        ("clip_l", {"text_model.embeddings.token_embedding.weight": (10, 1280)}, "clip_l.other_width"),
        ("t5", {"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8), "shared.weight": (9, 8)}, "t5.other_width"),
        ("t5", {"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8), "scaled_fp8": (2,)}, "model.is_quantised"),
    ],
)
def test_parts_of_other_models_get_a_sentence(tmp_path, files, name, tensors, key):
    model = broken(tmp_path, name, {k: torch.zeros(shape) for k, shape in tensors.items()}, files)
    assert said(model)[0] == (f"model.{name}", key)


def test_without_a_tokenizer_it_is_said_what_to_put_where(tmp_path):
    files = tiny_flux_files(tmp_path, tokenizer=False)
    ((field, error),) = flux_source.problems(settings(**files.settings))
    assert (field, error.key) == ("model.t5", "t5.no_tokenizer")
    assert str(tmp_path) in str(error)
    with pytest.raises(UserError) as raised:
        load(settings(**files.settings))
    assert raised.value.key == "t5.no_tokenizer"
    assert said(settings(**files.settings, allow_download=True)) == []


def test_tensors_that_are_missing_or_strange_are_named(tmp_path, files):
    from safetensors.torch import load_file

    state = load_file(files.base)
    state["double_blocks.1.strange.weight"] = torch.zeros(1)
    components = load(broken(tmp_path, "base", state, files))
    with pytest.raises(UserError, match="strange"):
        components.part("unet")
    state.pop("double_blocks.1.strange.weight")
    state.pop("single_blocks.1.linear2.bias")
    with pytest.raises(UserError, match="proj_out"):
        load(broken(tmp_path, "base", state, files)).part("unet")
