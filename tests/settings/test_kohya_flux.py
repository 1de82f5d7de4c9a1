"""What Kohya has for FLUX.1: its form, its script, and the way back."""

import json
import tomllib

import pytest

from lora_core.settings import RunSettings
from lora_core.settings.fields import values_of
from lora_core.settings.kohya.convert import import_command, import_tree
from lora_core.settings.kohya.export import to_gui, to_scripts

FORM = {
    "flux1_checkbox": True,
    "LoRA_type": "Flux1",
    "pretrained_model_name_or_path": "/m/flux1-dev.safetensors",
    "ae": "/m/ae.safetensors",
    "clip_l": "/m/clip_l.safetensors",
    "t5xxl": "/m/t5xxl_fp16.safetensors",
    "timestep_sampling": "shift",
    "discrete_flow_shift": 3.1582,
    "model_prediction_type": "raw",
    "guidance_scale": 1,
    "t5xxl_max_token_length": 256,
    "apply_t5_attn_mask": True,
    "flux1_cache_text_encoder_outputs": True,
}


def told(imported) -> dict[str, tuple[str, str]]:
    return {entry.key: (entry.group, entry.reason) for entry in imported.entries}


def test_a_form_comes_along():
    imported = import_tree(FORM, "x.json")
    model, noise = imported.settings.model, imported.settings.noise
    assert model.family == "flux"
    assert [str(p) for p in (model.base, model.vae, model.clip_l, model.t5)] == [
        FORM[key] for key in ("pretrained_model_name_or_path", "ae", "clip_l", "t5xxl")
    ]
    assert (model.guidance, model.t5_max_token_length, model.apply_t5_attn_mask) == (1.0, 256, True)
    assert (noise.timestep_sampling, noise.discrete_flow_shift) == ("shift", 3.1582)
    groups = told(imported)
    assert {groups[key][0] for key in FORM if key in groups} <= {"mapped", "no_effect"}


def test_the_stock_form_is_a_recipe_that_is_told_and_not_copied():
    groups = told(
        import_tree(
            {"flux1_checkbox": True, "timestep_sampling": "sigma", "model_prediction_type": "sigma_scaled"}, "x"
        )
    )
    assert groups["timestep_sampling"] == ("different", "why.flow_sigma")
    assert groups["model_prediction_type"] == ("different", "why.flow_other_answer")
    imported = import_tree({"flux1_checkbox": True}, "x.json")
    assert imported.settings.noise.timestep_sampling == "shift"
    assert imported.settings.noise.discrete_flow_shift == 3.0
    assert imported.settings.model.guidance == 3.5


def test_another_family_does_not_read_them():
    imported = import_tree({"sdxl": False, "timestep_sampling": "uniform", "discrete_flow_shift": 2.0}, "x.json")
    assert imported.settings.noise == RunSettings().noise
    assert {group for key, (group, _) in told(imported).items() if "flow" in key or "timestep_s" in key} <= {
        "no_effect"
    }


@pytest.mark.parametrize(
    ("options", "sampling", "group"),
    [
        ("--timestep_sampling sigmoid --sigmoid_scale 0.7", "sigmoid", "mapped"),
        ("--timestep_sampling flux_shift", "flux_shift", "mapped"),
        ("--weighting_scheme logit_normal --logit_mean 0.5 --logit_std 0.8", "logit_normal", "different"),
        ("--timestep_sampling nextdit_shift", "flux_shift", "unsupported"),
    ],
)
def test_a_command_comes_along(options, sampling, group):
    imported = import_command(
        f"accelerate launch flux_train_network.py --network_module networks.lora_flux --network_dim 8 {options}", "x"
    )
    assert imported.settings.noise.timestep_sampling == sampling
    assert group in {g for key, (g, _) in told(imported).items() if key == "timestep_sampling"} or group == "different"
    noise = imported.settings.noise
    if "sigmoid_scale" in options:
        assert noise.sigmoid_scale == 0.7
    if "logit_mean" in options:
        assert (noise.logit_mean, noise.logit_std) == (0.5, 0.8)


@pytest.mark.parametrize("sampling", ["flux_shift", "shift", "sigmoid", "uniform"])
def test_there_and_back(sampling):
    settings = RunSettings(
        model={
            "family": "flux",
            "base": "/m/flux.safetensors",
            "vae": "/m/ae.safetensors",
            "clip_l": "/m/c",
            "t5": "/m/t",
        },
        noise={"timestep_sampling": sampling, "discrete_flow_shift": 2.5},
        train={"mixed_precision": "bf16"},
    )
    back = import_tree(json.loads(to_gui(settings).text), "x.json").settings
    own = {k: v for k, v in values_of(settings).items() if k.startswith(("model.", "noise."))}
    assert {k: v for k, v in values_of(back).items() if k in own} == own


def test_a_toml_for_the_script():
    settings = RunSettings(
        model={"family": "flux", "base": "/m/flux.safetensors", "vae": "/m/ae.safetensors"},
        noise={"timestep_sampling": "logit_normal", "logit_mean": 0.3},
    )
    toml = tomllib.loads(to_scripts(settings).text)
    assert toml["network_module"] == "networks.lora_flux"
    assert toml["ae"] == "/m/ae.safetensors"
    assert toml["model_prediction_type"] == "raw"
    assert (toml["timestep_sampling"], toml["weighting_scheme"], toml["logit_mean"]) == ("sigma", "logit_normal", 0.3)
    assert toml["discrete_flow_shift"] == 1.0
    assert "vae" not in toml
    assert not {"timestep_sampling", "ae", "guidance_scale"} & tomllib.loads(to_scripts(RunSettings()).text).keys()
