"""The sample dataset: what is there, and that the drawing script makes exactly this."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_core.demo import DATASET, HELDOUT, REGULARISATION

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def drawing():
    """tools/draw_usu_bear.py as a module (tools is no package)."""
    spec = importlib.util.spec_from_file_location("draw_usu_bear", ROOT / "tools/draw_usu_bear.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def test_training_parent_holds_one_folder_named_with_repeats_and_trigger():
    assert [folder.name for folder in DATASET.iterdir()] == ["20_usu bear"]


@pytest.mark.parametrize(("folder", "count"), [(DATASET / "20_usu bear", 18), (HELDOUT, 6)])
def test_every_picture_has_a_caption_that_begins_with_the_trigger(folder, count):
    files = pictures(folder)
    assert len(files) == count
    for file in files:
        assert file.with_suffix(".txt").read_text(encoding="utf-8").startswith("usu bear")


def test_training_pictures_come_in_several_shapes():
    sizes = {Image.open(file).size for file in pictures(DATASET / "20_usu bear")}
    assert sizes == {(128, 128), (160, 128), (128, 160)}


def test_heldout_pictures_are_not_training_pictures():
    training = {Image.open(file).tobytes() for file in pictures(DATASET / "20_usu bear")}
    assert not any(Image.open(file).tobytes() in training for file in pictures(HELDOUT))


def test_regularisation_pictures_are_of_the_class_bear_at_the_models_own_size():
    files = pictures(REGULARISATION / "1_bear")
    assert len(files) == 40
    assert {Image.open(file).size for file in files} == {(64, 64)}


def test_the_script_draws_the_shipped_pictures(drawing):
    """A little slack: another Pillow version may round an edge pixel otherwise."""
    for scenes, folder in ((drawing.TRAIN, DATASET / "20_usu bear"), (drawing.HELDOUT, HELDOUT)):
        for scene, file in zip(scenes, pictures(folder), strict=True):
            drawn, shipped = (np.asarray(image, float) for image in (drawing.draw_scene(scene), Image.open(file)))
            assert np.abs(drawn - shipped).mean() < 1
            assert file.with_suffix(".txt").read_text(encoding="utf-8").strip() == scene.caption
