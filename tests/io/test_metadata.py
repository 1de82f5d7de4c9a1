"""Metadata of a LoRA: what other programs read, what we read back, and what must not be in it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_core.adapters.files import load_lora, save_lora
from lora_core.errors import UserError
from lora_core.io.metadata import SETTINGS_KEY, settings_from_lora, shareable, training_metadata
from lora_core.settings import RunSettings
from tests.adapters.helpers import make_network, make_tiny, randomise, run_model

SECRET = "/home/kuma/secret place"
SETTINGS = RunSettings.model_validate(
    {
        "model": {"base": f"{SECRET}/model.safetensors", "vae": f"{SECRET}/kl.vae.pt", "clip_skip": 2},
        "dataset": {"train_dir": f"{SECRET}/bears", "reg_dir": f"{SECRET}/reg", "resolution": "600,900"},
        "network": {"rank": 4, "alpha": 2, "network_dropout": 0.1},
        "train": {"unet_lr": 2e-4, "train_text_encoder": False},
        "loss": {"min_snr_gamma": 5},
        "save": {"output_dir": f"{SECRET}/out", "output_name": "usu", "author": "くま", "resume": f"{SECRET}/x-state"},
        "optimizer": {"name": "AdamW", "args": "betas=(0.9,0.99)"},
        "schedule": {"name": "cosine", "warmup": 10},
    }
)


NETWORKS = {
    "locon": (
        {"algo": "locon", "rank": 4, "conv_rank": 2, "conv_alpha": 1, "network_dropout": 0.1},
        "networks.lora",
        {"conv_dim": "2", "conv_alpha": "1.0", "dropout": "0.1"},
    ),
    "loha": (
        {"algo": "loha", "rank": 4, "rank_dropout": 0.1},
        "lycoris.kohya",
        {"algo": "loha", "preset": "attn-mlp", "rank_dropout": "0.1"},
    ),
    "lokr": (
        {"algo": "lokr", "rank": 4, "conv_rank": 2, "full_matrix": True},
        "lycoris.kohya",
        {
            "algo": "lokr",
            "preset": "full",
            "factor": "-1",
            "full_matrix": "True",
            "conv_dim": "2",
            "conv_alpha": "8.0",
        },
    ),
    "dora": (
        {"algo": "dora", "rank": 4},
        "lycoris.kohya",
        {"algo": "locon", "preset": "attn-mlp", "dora_wd": "True", "wd_on_output": "False"},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_other_algorithms_are_named_as_sd_scripts_and_lycoris_name_them(name):
    network, module, args = NETWORKS[name]
    found = metadata(SETTINGS.model_copy(update={"network": RunSettings(network=network).network}))
    assert found["ss_network_module"] == module
    assert json.loads(found["ss_network_args"]) == args


def test_the_alpha_of_rs_lora_is_the_one_in_the_file():
    network = RunSettings(network={"rank": 16, "alpha": 8, "rs_lora": True}).network
    assert metadata(SETTINGS.model_copy(update={"network": network}))["ss_network_alpha"] == "32.0"


@pytest.fixture
def tiny():
    return make_tiny()


def metadata(settings=SETTINGS, **changes):
    source = SimpleNamespace(
        name="model.safetensors",
        legacy_hash="0123abcd",
        sha256="f" * 64,
        variant="",
        vae_name=None,
        vae_legacy_hash=None,
        vae_sha256=None,
    )
    values = {
        "plan": SimpleNamespace(total_steps=100, epochs=2, batches_per_epoch=50),
        "source": source,
        "dataset": {"ss_tag_frequency": json.dumps({"20_usu bear": {"usu bear": 15}})},
        "seed": 7,
        "precision": "bf16",
        "prediction_type": "epsilon",
        "started_at": 1_700_000_000.0,
        "finished_at": 1_700_000_100.0,
        "steps": 50,
        "epoch": 1,
    }
    return training_metadata(settings, **(values | changes))


def test_values_are_text_as_sd_scripts_writes_it():
    found = metadata()
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in found.items())
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "ss_network_args": '{"dropout": "0.1"}',
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        "ss_resolution": "(600, 900)",
        "ss_steps": "50",
        "ss_epoch": "1",
        "ss_seed": "7",
        "ss_unet_lr": "0.0002",
        "ss_text_encoder_lr": "0.0",
        "ss_optimizer": "AdamW(weight_decay=0.01,betas=(0.9,0.99))",
        "ss_lr_warmup_steps": "10",
        "ss_max_train_steps": "100",
        "ss_clip_skip": "2",
        "ss_min_snr_gamma": "5.0",
        "ss_noise_offset": "None",
        "ss_sd_model_hash": "0123abcd",
        "ss_sd_model_name": "model.safetensors",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "usu",
        "modelspec.author": "くま",
        "modelspec.resolution": "600x900",
        "modelspec.prediction_type": "epsilon",
        "modelspec.encoder_layer": "2",
        "modelspec.sai_model_spec": "1.0.1",
    }
    assert {key: found.get(key) for key in expected} == expected
    assert json.loads(found["ss_tag_frequency"])["20_usu bear"] == {"usu bear": 15}
    assert "modelspec.license" not in found


def test_velocity_models_are_told_apart():
    found = metadata(prediction_type="v_prediction")
    assert (found["ss_base_model_version"], found["modelspec.prediction_type"]) == ("sd_v1_v", "v")


@pytest.mark.parametrize(
    ("family", "prediction_type", "version", "architecture", "module"),
    [
        ("sd1", "epsilon", "sd_v1", "stable-diffusion-v1/lora", "networks.lora"),
        ("sd2", "epsilon", "sd_v2", "stable-diffusion-v2-512/lora", "networks.lora"),
        ("sd2", "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "networks.lora"),
        ("sdxl", "v_prediction", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "networks.lora"),
        ("flux", "flow", "flux1", "flux-1-dev/lora", "networks.lora_flux"),
    ],
)
def test_the_base_model_is_called_what_other_programs_call_it(family, prediction_type, version, architecture, module):
    found = metadata(RunSettings.model_validate({"model": {"family": family}}), prediction_type=prediction_type)
    names = "ss_base_model_version", "modelspec.architecture", "ss_network_module", "ss_v2"
    assert [found[name] for name in names] == [version, architecture, module, str(family == "sd2")]
    assert ("modelspec.prediction_type" in found) == (family != "flux")
    assert ("ss_max_token_length" in found) == (family != "flux")


def test_no_path_of_this_machine_is_passed_on():
    found = metadata()
    assert not [key for key, value in found.items() if "secret" in value]
    tree = json.loads(found[SETTINGS_KEY])
    assert tree["dataset"]["train_dir"] is None
    assert tree["model"]["base"] == ""


@pytest.mark.parametrize(
    ("base", "kept"),
    [
        ("built-in", True),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", True),
        ("models/x.safetensors", False),
        ("C:\\models\\x.safetensors", False),
        ("~/x", False),
        ("./folder", False),
        ("/models/sd15", False),
    ],
)
def test_names_of_models_are_kept_paths_are_not(base, kept):
    settings = RunSettings.model_validate({"model": {"base": base}})
    assert shareable(settings)["model"]["base"] == (settings.model.base if kept else "")


def test_settings_come_back_from_the_file(tmp_path, tiny):
    path = tmp_path / "うす bear.safetensors"
    save_lora(tiny.network, metadata(), path, "fp16")
    back = RunSettings.model_validate(settings_from_lora(path))
    blank = {"vae": None, "train_dir": None, "reg_dir": None, "output_dir": None, "resume": None, "base": ""}
    for section, values in SETTINGS.model_dump().items():
        if isinstance(values, dict):
            expected = values | {name: value for name, value in blank.items() if name in values}
            assert getattr(back, section).model_dump() == expected
    assert back.version == SETTINGS.version


@pytest.mark.parametrize("extra", [{}, {SETTINGS_KEY: "broken {"}, {SETTINGS_KEY: "[]"}])
def test_a_lora_of_another_program_has_no_settings(tmp_path, extra):
    save_file({"lora_unet_x.alpha": torch.tensor(1.0)}, tmp_path / "x.safetensors", {"ss_network_dim": "4"} | extra)
    with pytest.raises(UserError) as error:
        settings_from_lora(tmp_path / "x.safetensors")
    assert error.value.key == "settings.lora_without"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("float", torch.float32)]
)
def test_the_file_holds_the_network(tmp_path, tiny, precision, dtype):
    path = tmp_path / "x.safetensors"
    save_lora(tiny.network, metadata(), path, precision)
    state = load_file(path)
    assert {t.dtype for t in state.values()} == {dtype}
    assert state.keys() == tiny.network.state_dict_kohya().keys()
    other = make_network(tiny.targets, seed=3)
    load_lora(other, path)
    wanted = randomise(make_network(tiny.targets))
    wanted.load_kohya(tiny.network.state_dict_kohya(dtype))
    with torch.no_grad():
        assert torch.equal(run_model_with(other, tiny), run_model_with(wanted, tiny))


def run_model_with(network, tiny):
    network.attach()
    answer = run_model(tiny.parts)
    network.detach()
    return answer


def test_hashes_by_an_independent_computation(tmp_path, tiny):
    """From the finished file: tensors' bytes alone, and the file rebuilt with nothing but ss_* in its header."""
    path = tmp_path / "x.safetensors"
    save_lora(tiny.network, metadata() | {"ss_training_comment": "x" * 2_000_000}, path, "fp16")
    data = path.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    with safe_open(path, "pt") as file:
        found = file.metadata()
    assert found["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    only_ss = {k: v for k, v in found.items() if k.startswith("ss_")}
    save_file(load_file(path), tmp_path / "again.safetensors", only_ss)
    again = (tmp_path / "again.safetensors").read_bytes()[0x100000:0x110000]
    assert len(again) == 0x10000
    assert found["sshs_legacy_hash"] == hashlib.sha256(again).hexdigest()[:8]


def test_a_failed_save_leaves_the_old_file(tmp_path, tiny, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.replace", _refuse)
    monkeypatch.setattr(Path, "replace", _refuse)
    with pytest.raises(UserError):
        save_lora(tiny.network, metadata(), path, "fp16")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def _refuse(*_):
    raise OSError(28, "No space left on device")


def test_reading_metadata_needs_no_torch():
    code = "import sys, lora_core.io.metadata; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
