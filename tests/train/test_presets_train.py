"""Every preset trains, on the tiny model of its family: all is as the preset says, but for sizes, steps and places."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lora_core.events import RunStarted, SampleSaved, StepDone
from lora_core.families import FAMILIES
from lora_core.merge import names
from lora_core.settings import RunSettings
from lora_core.settings.fields import values_of
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import Preset, apply_preset, list_presets
from lora_core.train.session import part_rate
from tests.models import tiny_sd_folder
from tests.models_flux import T5_LENGTH, tiny_flux_folder
from tests.models_sdxl import tiny_file
from tests.train.test_loop import events_of, final, only

each = pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
STEPS = 2
SMALL = {
    "dataset.resolution": "64,64",
    "dataset.min_bucket_reso": 32,
    "dataset.max_bucket_reso": 128,
    "dataset.bucket_reso_steps": 32,
    "train.max_train_steps": STEPS,
    "train.device": "cpu",
    "sample.prompts": "usu bear --w 32 --h 32",
    "sample.steps": 1,
    "save.output_name": "usu",
}
"""What every run here has instead of the preset's."""
OWN = ("model.base", "model.t5_max_token_length", "dataset.train_dir", "dataset.reg_dir", "dataset.cache_dir")
"""The folders of these tests, and what the tiny T5 can read."""

FAMILY_OF_BASE = {"sd_v1": "sd1", "sdxl_base_v1-0": "sdxl", "flux1": "flux"}
"""ss_base_model_version, as sd-scripts writes it."""
TEXT_PREFIXES = {"sd1": {"te1": "lora_te_"}, "sdxl": {"te1": "lora_te1_", "te2": "lora_te2_"}}
DENOISER_BLOCKS = {
    "sd1": {"down_blocks", "up_blocks", "mid_block"},
    "sdxl": {"input_blocks", "output_blocks", "middle_block"},
    "flux": {"double_blocks", "single_blocks"},
}
"""What names of the denoiser's layers begin with, behind lora_unet_."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "sd1": tiny_sd_folder(folder / "sd1"),
        "sdxl": tiny_file(folder / "sdxl.safetensors", "sdxl"),
        "flux": tiny_flux_folder(folder / "flux"),
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Four pictures of two shapes, each with tags, shown twice an epoch."""
    folder = tmp_path_factory.mktemp("images") / "2_usu bear"
    folder.mkdir()
    for i, size in enumerate([(64, 64), (96, 64)] * 2):
        Image.radial_gradient("L").rotate(40 * i).resize(size).convert("RGB").save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"usu bear, red, round, {'snow' if i else 'ice'}", encoding="utf-8")
    return folder.parent


def small(preset: Preset, models: Mapping[str, Path], images: Path, out: Path) -> RunSettings:
    """The preset on the tiny model of its family."""
    family = preset.values["model.family"]
    own = {
        "model.base": str(models[family]),
        "dataset.train_dir": images,
        "dataset.reg_dir": None,
        "dataset.cache_dir": out / "cache",
        "save.output_dir": out,
    }
    length = {"model.t5_max_token_length": T5_LENGTH} if family == "flux" else {}
    return with_values(apply_preset(RunSettings(), preset), SMALL | own | length)


@each
def test_a_preset_trains(preset, models, images, tmp_path):
    settings = small(preset, models, images, tmp_path)
    assert told_otherwise(preset, settings) <= {*SMALL, *OWN, "save.output_dir"}
    events = events_of(settings)
    check_steps(settings, only(events, StepDone))
    assert {event.step for event in only(events, SampleSaved)} >= {0}
    check_summary(settings, only(events, RunStarted)[0].summary["en"])
    check_file(settings, load_file(final(settings)))
    with safe_open(final(settings), "pt") as file:
        check_metadata(settings, file.metadata())


def told_otherwise(preset: Preset, settings: RunSettings) -> set[str]:
    """Where the run here is not as the preset wants it."""
    wanted, found = values_of(apply_preset(RunSettings(), preset)), values_of(settings)
    return {path for path in wanted if wanted[path] != found[path]}


def check_steps(settings: RunSettings, steps: list[StepDone]) -> None:
    assert [done.step for done in steps] == [1, STEPS]
    losses = [done.loss for done in steps]
    assert all(map(math.isfinite, losses))
    assert min(losses) > 0
    assert len(set(losses)) == STEPS
    trained = FAMILIES[settings.model.family].trainable_text_parts if settings.train.train_text_encoder else ()
    assert set(steps[0].learning_rate) == {"unet", *trained}
    if settings.schedule.name == "constant":
        assert steps[0].learning_rate == {part: part_rate(settings.train, part) for part in ("unet", *trained)}


def check_summary(settings: RunSettings, lines: list[str]) -> None:
    said = "\n".join(lines)
    network = settings.network
    assert f"rank {network.rank}, alpha {network.alpha:g}" in said
    assert f"{settings.optimizer.name}, schedule {settings.schedule.name};" in said
    assert ("U-Net only" in said) == (not settings.train.train_text_encoder)


def check_file(settings: RunSettings, state: Mapping[str, Tensor]) -> None:
    """Rank and alpha of every layer, and names that belong to the family and the parts that are trained."""
    family, network = settings.model.family, settings.network
    layers = {key.partition(".")[0] for key in state}
    assert names.family_of(layers) == family
    for name in layers:
        assert names.locate(name, family) == names.Place(name)
        down, up = state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"]
        assert down.shape[0] == up.shape[1] == network.rank
        assert float(state[f"{name}.alpha"]) == network.alpha
    assert any(state[f"{name}.lora_up.weight"].any() for name in layers)
    unet = {name.removeprefix("lora_unet_") for name in layers if name.startswith("lora_unet_")}
    assert {"_".join(name.split("_")[:2]) for name in unet} == DENOISER_BLOCKS[family]
    texts = {name[: name.index("text_model")] for name in layers if not name.startswith("lora_unet_")}
    expected = TEXT_PREFIXES[family].values() if settings.train.train_text_encoder else ()
    assert texts == set(expected)


def check_metadata(settings: RunSettings, told: Mapping[str, str]) -> None:
    assert FAMILY_OF_BASE[told["ss_base_model_version"]] == settings.model.family
    assert told["ss_optimizer"].startswith(f"{settings.optimizer.name}(")
    assert told["ss_lr_scheduler"] == settings.schedule.name
    assert float(told["ss_network_dim"]) == settings.network.rank
    assert float(told["ss_network_alpha"]) == settings.network.alpha
    assert told["ss_steps"] == str(STEPS)
    kept: dict[str, Any] = json.loads(told["kumakobo_settings"])
    assert (kept["model"]["family"], kept["optimizer"]["name"], kept["schedule"]["name"]) == (
        settings.model.family,
        settings.optimizer.name,
        settings.schedule.name,
    )


def test_every_family_with_a_preset_is_tried(models):
    assert {preset.values["model.family"] for preset in list_presets()} == models.keys()
