"""Stable Diffusion 2 and SDXL from folders and single files: the same model, whichever way."""

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from lora_core import preflight
from lora_core.errors import UserError
from lora_core.families import FAMILIES
from lora_core.families.base import Components
from lora_core.families.sdxl import whole_pictures
from lora_core.io.headers import identify
from lora_core.settings import RunSettings, Sd2Model, SdxlModel
from tests.models import tiny_parts
from tests.models_sdxl import PROJECTION, WIDTH, WIDTH_2, tiny_file, tiny_folder, tiny_model

MODELS = {"sd2": Sd2Model, "sdxl": SdxlModel}
families = pytest.mark.parametrize("family", MODELS)


def load(base: Path, family: str, dtype: torch.dtype = torch.float32, **settings: object) -> Components:
    model = MODELS[family](base=str(base), **settings)
    return FAMILIES[family].load(model, dtype=dtype, device=torch.device("cpu"))


def parts(components: Components, family: str) -> tuple[str, ...]:
    return ("unet", "vae", *FAMILIES[family].text_parts)


@families
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_folder_and_file_are_the_same_model(tmp_path: Path, family: str, ending: str):
    folder = load(tiny_folder(tmp_path / "モデル", family), family)
    file = load(tiny_file(tmp_path / f"m.{ending}", family), family, prediction_type="epsilon")
    for part in parts(folder, family):
        ours, other = folder.part(part).state_dict(), file.part(part).state_dict()
        assert ours.keys() == other.keys()
        assert all(torch.equal(ours[key], other[key]) for key in ours), part
    config, other = folder.denoiser.config, file.denoiser.config
    for name in (
        "attention_head_dim",
        "transformer_layers_per_block",
        "addition_time_embed_dim",
        "use_linear_projection",
    ):
        found, wanted = (c[name] if not isinstance(c[name], tuple) else list(c[name]) for c in (other, config))
        assert found == wanted or set(wanted if isinstance(wanted, list) else [wanted]) == {found}, name
    assert folder.vae.config.scaling_factor == pytest.approx(file.vae.config.scaling_factor)
    prompts = ["a bear", "", "snow " * 90]
    encode = partial(FAMILIES[family].encode_prompts, prompts=prompts, model=MODELS[family](max_token_length=150))
    one, two = encode(folder), encode(file)
    assert all(torch.equal(one[name], two[name]) for name in one.tensors)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    predict = FAMILIES[family].predict
    assert torch.equal(predict(folder, x, t, one), predict(file, x, t, two))


@families
def test_the_vae_is_float32_whatever_the_rest(tmp_path: Path, family: str):
    found = load(tiny_file(tmp_path / "m.safetensors", family, dtype=torch.float16), family, torch.float16)
    assert {found.part(part).dtype for part in parts(found, family) if part != "vae"} == {torch.float16}
    assert found.vae.dtype == torch.float32


PROMPTS = ["a bear in the snow", "", "bear, " * 60]


def test_sdxl_reads_prompts_as_diffusers_does(tmp_path: Path):
    folder = tiny_folder(tmp_path / "m", "sdxl")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    found = FAMILIES["sdxl"].encode_prompts(load(folder, "sdxl"), PROMPTS, SdxlModel())
    hidden, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    torch.testing.assert_close(found.hidden, hidden)
    torch.testing.assert_close(found["pooled"], pooled)
    assert found.hidden.shape == (3, 77, WIDTH + WIDTH_2)
    assert found["pooled"].shape == (3, PROJECTION)


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_sd2_reads_prompts_as_diffusers_does(tmp_path: Path, clip_skip: int):
    folder = tiny_folder(tmp_path / "m", "sd2")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    found = FAMILIES["sd2"].encode_prompts(load(folder, "sd2"), PROMPTS, Sd2Model(clip_skip=clip_skip))
    if clip_skip == 1:
        wanted, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    else:  # diffusers 0.42 can't do this with transformers 5
        options = {"padding": "max_length", "truncation": True, "max_length": 77, "return_tensors": "pt"}
        ids = pipeline.tokenizer(PROMPTS, **options).input_ids
        layers = pipeline.text_encoder(ids, output_hidden_states=True).hidden_states
        wanted = pipeline.text_encoder.final_layer_norm(layers[-clip_skip])
    torch.testing.assert_close(found.hidden, wanted)


def test_the_text_as_a_whole_is_that_of_the_first_chunk(tmp_path: Path):
    components, family = load(tiny_file(tmp_path / "m.safetensors", "sdxl"), "sdxl"), FAMILIES["sdxl"]
    long = " ".join(["bear"] * 75 + ["snow"] * 75)
    short = " ".join(["bear"] * 75)
    two, one = (
        family.encode_prompts(components, [text], SdxlModel(max_token_length=length))
        for text, length in ((long, 150), (short, 75))
    )
    assert two.hidden.shape == (1, 154, WIDTH + WIDTH_2)
    torch.testing.assert_close(two["pooled"], one["pooled"])
    torch.testing.assert_close(two.hidden[:, :77], one.hidden)


def test_weights_change_each_encoder_by_itself_and_not_the_whole(tmp_path: Path):
    components, family = load(tiny_file(tmp_path / "m.safetensors", "sdxl"), "sdxl"), FAMILIES["sdxl"]
    plain = family.encode_prompts(components, ["a bear"], SdxlModel())
    loud = family.encode_prompts(components, ["a (bear:1.5)"], SdxlModel(), weighted=True)
    assert torch.equal(plain["pooled"], loud["pooled"])
    for own in (slice(0, WIDTH), slice(WIDTH, None)):
        before, after = plain.hidden[0, :, own], loud.hidden[0, :, own]
        torch.testing.assert_close(after.mean(), before.mean())
        ratio = (after / before).median(1).values  # of each token, the same for all its numbers
        torch.testing.assert_close(ratio / ratio[0], torch.tensor([1.5 if i == 2 else 1.0 for i in range(77)]))


def test_open_clip_fills_up_with_nought_and_clip_with_the_end(tmp_path: Path):
    for base in (tiny_folder(tmp_path / "m", "sdxl"), tiny_file(tmp_path / "m.safetensors", "sdxl")):
        chunkers = load(base, "sdxl").chunkers
        first, second = (chunkers[part].rows("wow!", 1)[0] for part in ("text_encoder", "text_encoder_2"))
        assert first.tolist() == [49406, 2781, 256, 49407] + [49407] * 73
        # An exclamation mark is a word, not filling.
        assert second.tolist() == [49406, 2781, 256, 49407] + [0] * 73
        ids, _ = chunkers["text_encoder_2"].weighted_rows("bear BREAK snow", 2)
        assert ids[:, 2:].tolist() == [[49407] + [0] * 74] * 2


def test_a_frame_changes_what_sdxl_says_and_its_default_is_the_whole_picture(tmp_path: Path):
    components, family = load(tiny_file(tmp_path / "m.safetensors", "sdxl"), "sdxl"), FAMILIES["sdxl"]
    told = family.encode_prompts(components, ["a bear"], SdxlModel())
    x, t = torch.randn(1, 4, 8, 16), torch.tensor([500])
    answer = family.predict(components, x, t, told)
    whole = torch.tensor([[64.0, 128, 0, 0, 64, 128]])
    assert torch.equal(whole_pictures(x, 8), whole)
    assert torch.equal(family.predict(components, x, t, told, whole), answer)
    assert not torch.equal(family.predict(components, x, t, told, torch.tensor([[640.0, 128, 0, 9, 64, 128]])), answer)


class TestPrediction:
    @pytest.mark.parametrize(
        ("markers", "metadata", "expected"),
        [
            ((), None, ("epsilon", False)),
            (("v_pred",), None, ("v_prediction", False)),
            (("v_pred", "ztsnr"), None, ("v_prediction", True)),
            ((), {"modelspec.prediction_type": "v"}, ("v_prediction", False)),
        ],
    )
    def test_sdxl_says_it_by_keys_or_metadata(self, tmp_path: Path, markers, metadata, expected):
        path = tiny_file(tmp_path / "m.safetensors", "sdxl", markers=markers, metadata=metadata)
        found = load(path, "sdxl")
        assert (found.prediction_type, found.schedule["zero_terminal_snr"]) == expected
        kind = identify(path)
        assert (kind.prediction_type, kind.zero_terminal_snr, kind.prediction_from) == (*expected, "file")

    def test_a_folder_says_it_in_its_scheduler(self, tmp_path: Path):
        path = tiny_folder(tmp_path / "m", "sdxl", prediction_type="v_prediction", rescale_betas_zero_snr=True)
        found = load(path, "sdxl")
        assert found.prediction_type == "v_prediction"
        assert found.schedule["zero_terminal_snr"]
        assert FAMILIES["sdxl"].noise_process(found).snr(torch.tensor([999])).item() == 0
        assert load(path, "sdxl", prediction_type="epsilon").prediction_type == "epsilon"

    TELLING = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"

    def sd2_file(self, path: Path, spread: float | None, **metadata: str) -> Path:
        state = load_file(tiny_file(path, "sd2"))
        if spread is not None:
            state[self.TELLING] = (torch.arange(2) * 2.0 - 1) * spread
        save_file(state, path, metadata)
        return path

    @pytest.mark.parametrize(("spread", "expected"), [(0.15, "v_prediction"), (0.05, "epsilon")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_sd2_is_judged_by_the_spread_of_one_norm_and_that_is_said(self, tmp_path: Path, spread, expected, dtype):
        path = self.sd2_file(tmp_path / "m.safetensors", spread)
        save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, path)
        kind = identify(path)
        assert (kind.prediction_type, kind.prediction_from) == (expected, "weights")
        [warning] = preflight.model(RunSettings(model=Sd2Model(base=str(path))))
        assert (warning.key, warning.severity) == ("preflight.prediction_by_weights", "warning")
        assert warning.fix == {"model.prediction_type": expected}
        assert not list(preflight.model(RunSettings(model=Sd2Model(base=str(path), prediction_type="epsilon"))))

    @pytest.mark.parametrize(
        ("name", "expected"), [("v2-1_768-ema-pruned", "v_prediction"), ("v2-1_512-ema-pruned", "epsilon")]
    )
    def test_a_ckpt_of_sd2_is_judged_by_its_name(self, tmp_path: Path, name: str, expected: str):
        path = tiny_file(tmp_path / f"{name}.ckpt", "sd2")
        assert (identify(path).prediction_type, identify(path).prediction_from) == (expected, "assumed")
        assert load(path, "sd2").prediction_type == expected
        [warning] = preflight.model(RunSettings(model=Sd2Model(base=str(path))))
        assert warning.key == "preflight.prediction_assumed"

    @pytest.mark.parametrize(
        ("yaml", "expected"),
        [('    parameterization: "v"\n', "v_prediction"), ("    unet_config:\n", "epsilon"), (None, "v_prediction")],
    )
    def test_the_yaml_of_sd2_says_it(self, tmp_path: Path, yaml: str | None, expected: str):
        path = self.sd2_file(tmp_path / "m.safetensors", 0.15)
        if yaml:
            path.with_suffix(".yaml").write_text("model:\n  params:\n" + yaml, encoding="utf-8")
        assert (identify(path).prediction_type, identify(path).prediction_from == "file") == (
            expected,
            yaml is not None,
        )

    def test_sd2_of_512_pixels_draws_512(self, tmp_path: Path):
        real = torch.nn.Module()
        real.config = type("C", (), {"sample_size": 96, "in_channels": 4})()
        path = tiny_file(tmp_path / "m.safetensors", "sd2")
        for prediction, side in (("epsilon", 512), ("v_prediction", 768)):
            components = load(path, "sd2", prediction_type=prediction)
            components._parts["unet"] = real
            assert FAMILIES["sd2"].drawing(components).side == side


@families
def test_a_separate_vae_has_the_spread_of_the_family(tmp_path: Path, family: str):
    vae = tiny_parts(3).vae
    save_file({key: t.contiguous() for key, t in vae.state_dict().items()}, tmp_path / "vae.safetensors")
    found = load(tiny_file(tmp_path / "m.safetensors", family), family, vae=tmp_path / "vae.safetensors")
    assert found.vae.config.scaling_factor == {"sd2": 0.18215, "sdxl": 0.13025}[family]
    assert torch.equal(found.vae.encoder.conv_in.weight, vae.encoder.conv_in.weight)


@families
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_missing_and_strange_weights_are_named(tmp_path: Path, family: str, part: str):
    path = tiny_file(tmp_path / "m.safetensors", family)
    state = load_file(path)
    prefix = {
        "unet": "model.diffusion_model.",
        "text_encoder": "cond_stage_model." if family == "sd2" else "conditioner.embedders.1.",
    }[part]
    names = sorted(
        key for key in state if key.startswith(prefix) and key.endswith(("ln_1.weight", "emb_layers.1.weight"))
    )
    for change, key in (("missing", "model.tensors_missing"), ("strange", "model.tensors_unexpected")):
        changed = dict(state)
        if change == "missing":
            del changed[names[0]]
        else:
            changed[names[0].replace(".0.", ".0.extra.", 1)] = torch.zeros(2)
        save_file(changed, path)
        components = load(path, family, prediction_type="epsilon")
        with pytest.raises(UserError) as caught:
            [components.part(p) for p in parts(components, family)]
        assert caught.value.key == key


def test_a_model_without_its_second_text_encoder_gets_a_sentence(tmp_path: Path):
    path = tiny_file(tmp_path / "m.safetensors", "sdxl")
    save_file({key: t for key, t in load_file(path).items() if not key.startswith("conditioner.embedders.1")}, path)
    with pytest.raises(UserError, match=r"conditioner\.embedders\.1\.model\.token_embedding"):
        load(path, "sdxl").part("text_encoder_2")


def test_tiny_models_are_random_but_the_same_for_a_seed():
    assert all(
        torch.equal(a, b)
        for a, b in zip(tiny_model("sdxl").unet.parameters(), tiny_model("sdxl").unet.parameters(), strict=True)
    )
