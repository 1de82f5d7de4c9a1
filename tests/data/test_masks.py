"""Masks: found by name, cut and mirrored as their picture, averaged to cells; what is wrong with them is said."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lora_core.data.buckets import Buckets
from lora_core.data.dataset import TrainingData
from lora_core.data.folders import scan
from lora_core.data.images import open_alpha, open_image, open_mask
from lora_core.data.mask_files import MaskFiles, find_masks, mask_problems
from lora_core.data.masks import Masks
from lora_core.data.pixels import load_pixels
from lora_core.data.samples import build_samples
from lora_core.errors import UserError
from lora_core.settings import DatasetSettings, LossSettings, RunSettings

CELL = 8


def figure(size=(70, 50), box=(10, 5, 40, 45)) -> Image.Image:
    """A white box on black."""
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def save(path: Path, picture: Image.Image, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **how)
    return path


def cut_out(mask: Image.Image) -> Image.Image:
    """A grey picture whose opaque part is the mask, with the mask's values as its red."""
    picture = Image.merge("RGB", [mask, mask, mask])
    picture.putalpha(mask)
    return picture


def settings_for(root: Path, masked: str, mask_dir: Path | None = None, **options) -> RunSettings:
    dataset = {"train_dir": root, "mask_dir": mask_dir, "resolution": "64", "bucket_reso_steps": 16} | options
    return RunSettings(dataset=DatasetSettings(**dataset), loss=LossSettings(masked_loss=masked))


def masks_of(settings: RunSettings) -> Masks:
    files = MaskFiles.of(settings, scan(settings.dataset))
    assert files is not None
    return Masks(files, CELL)


@pytest.fixture
def root(tmp_path) -> Path:
    """Three cut-out pictures of different shape and size, one without transparency."""
    for name, size in (("a", (70, 50)), ("b", (48, 80)), ("c", (200, 150))):
        save(tmp_path / f"train/2_usu bear/{name}.png", cut_out(figure(size)))
    save(tmp_path / "train/2_usu bear/d.png", Image.new("RGB", (70, 50), "red"))
    return tmp_path / "train"


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
def test_transparency_stands_upright_as_its_picture_does(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = save(tmp_path / "a.png", cut_out(figure()), exif=exif)
    assert open_alpha(path).size == open_image(path).size
    # Black on white: what is opaque and white stays white, the rest is laid on white as well; so compare by the red.
    turned = save(tmp_path / "m.png", figure(), exif=exif)
    assert np.array_equal(np.asarray(open_alpha(path)), np.asarray(open_mask(turned)))


def test_a_picture_without_transparency_is_all_there(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("RGB", (9, 7), "red"))
    assert open_alpha(path).size == (9, 7)
    assert np.asarray(open_alpha(path)).min() == 255


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "I;16"])
def test_a_mask_of_any_mode_is_its_brightness(tmp_path, mode):
    mask = figure()
    picture = Image.fromarray(np.asarray(mask).astype(np.uint16) * 257) if mode == "I;16" else mask.convert(mode)
    path = save(tmp_path / "a.png", picture)
    assert np.array_equal(np.asarray(open_mask(path)), np.asarray(mask))


def test_of_a_coloured_mask_the_red_counts_and_transparency_is_black(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGBA", (4, 4), (200, 10, 10, 255)))
    assert np.asarray(open_mask(path)).max() == 200
    path = save(tmp_path / "b.png", Image.new("RGBA", (4, 4), (200, 10, 10, 0)))
    assert np.asarray(open_mask(path)).max() == 0


def test_a_broken_mask_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.png"):
        open_mask(path)


# ---- as the picture --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("crop", [None, (0, 0), (3, 1)])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_mask_is_where_its_picture_is(root, name, flipped, crop):
    """The pictures' red is their mask: load them as training does and average over the cells."""
    settings = settings_for(root, "alpha")
    image = root / f"2_usu bear/{name}.png"
    flat = save(root.parent / f"flat/{name}.png", open_mask(image).convert("RGB"))
    place = Buckets.of(settings.dataset).choose(*Image.open(image).size)
    pixels = (load_pixels(flat, place, flipped=flipped, crop=crop)[:1] + 1) / 2
    expected = F.interpolate(pixels[None], (place.bucket[1] // CELL, place.bucket[0] // CELL), mode="area")[0]
    found = masks_of(settings).get(image, place, flipped=flipped, crop=crop)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert 0 < float(found.mean()) < 1


def test_batches_carry_masks_of_the_latents_size(root):
    settings = settings_for(root, "alpha", cache_latents="off", flip_aug=True)
    samples = build_samples(scan(settings.dataset), settings)
    data = TrainingData(samples, 2, None, masks_of(settings))
    for index in range(data.batches_per_epoch):
        batch = data.batch(1, index, seed=0)
        height, width = batch.pixels_BCHW.shape[2:]
        assert batch.masks_B1HW.shape == (len(batch), 1, height // CELL, width // CELL)
        again = data.batch(1, index, seed=0)
        assert torch.equal(batch.masks_B1HW, again.masks_B1HW)


def test_without_masks_batches_have_none(root):
    settings = settings_for(root, "off", cache_latents="off")
    assert MaskFiles.of(settings, scan(settings.dataset)) is None
    data = TrainingData(build_samples(scan(settings.dataset), settings), 2)
    assert data.batch(1, 0, seed=0).masks_B1HW is None


def test_the_picture_itself_is_laid_on_white_as_ever(root):
    assert np.asarray(open_image(root / "2_usu bear/a.png"))[0, 0].tolist() == [255, 255, 255]


# ---- from a folder ---------------------------------------------------------------------------------------------------


def test_masks_are_found_by_name_first_in_the_folder_of_the_same_name(tmp_path):
    for folder in ("train/2_usu", "train/1_other", "reg/1_bear"):
        save(tmp_path / folder / "a.png", Image.new("RGB", (64, 64)))
    masks = tmp_path / "masks"
    save(masks / "a.webp", figure((64, 64)))
    save(masks / "2_usu/a.jpg", figure((64, 64)))
    found = scan(DatasetSettings(train_dir=tmp_path / "train", reg_dir=tmp_path / "reg"))
    by_name = {image.parent.name: mask.relative_to(masks) for image, mask in find_masks(masks, found).items()}
    assert by_name == {"2_usu": Path("2_usu/a.jpg"), "1_other": Path("a.webp")}  # none for regularisation pictures
    save(masks / "1_bear/a.png", figure((64, 64)))
    assert len(find_masks(masks, found)) == 3


def test_a_mask_of_another_size_is_scaled_and_a_missing_one_trains_the_whole(root, tmp_path):
    save(tmp_path / "masks/a.png", figure((140, 100), (20, 10, 80, 90)))
    settings = settings_for(root, "folder", tmp_path / "masks")
    masks, alpha = masks_of(settings), masks_of(settings_for(root, "alpha"))
    image = root / "2_usu bear/a.png"
    place = Buckets.of(settings.dataset).choose(70, 50)
    difference = (masks.get(image, place, flipped=False) - alpha.get(image, place, flipped=False)).abs()
    assert float(difference.mean()) < 0.02
    whole = masks.get(root / "2_usu bear/b.png", place, flipped=False)
    assert torch.equal(whole, torch.ones_like(whole))


def test_the_fingerprint_follows_the_masks(root, tmp_path):
    path = save(tmp_path / "masks/a.png", figure())
    settings = settings_for(root, "folder", tmp_path / "masks")
    images = [root / "2_usu bear/a.png", root / "2_usu bear/b.png"]
    before = masks_of(settings).fingerprint(images)
    assert masks_of(settings).fingerprint(images) == before
    assert masks_of(settings_for(root, "alpha")).fingerprint(images) != before
    save(path, figure(box=(0, 0, 5, 5)))
    assert masks_of(settings).fingerprint(images) != before


# ---- problems --------------------------------------------------------------------------------------------------------


def problems(settings):
    return [(p.key, p.severity) for p in mask_problems(settings, scan(settings.dataset))]


def test_pictures_without_transparency_are_told(root, tmp_path):
    assert problems(settings_for(root, "off")) == []
    assert problems(settings_for(root, "alpha")) == [("data.some_opaque", "warning")]
    save(tmp_path / "plain/1_x/a.png", Image.new("RGB", (64, 64)))
    assert problems(settings_for(tmp_path / "plain", "alpha")) == [("data.no_transparency", "error")]


def test_missing_folders_and_masks_are_told(root, tmp_path):
    assert problems(settings_for(root, "folder")) == [("data.no_mask_folder", "error")]
    assert problems(settings_for(root, "folder", tmp_path / "nowhere")) == [("data.folder_unreadable", "error")]
    (tmp_path / "masks").mkdir()
    assert problems(settings_for(root, "folder", tmp_path / "masks")) == [("data.no_masks", "error")]
    save(tmp_path / "masks/a.png", figure((140, 100)))
    assert problems(settings_for(root, "folder", tmp_path / "masks")) == [("data.masks_missing", "warning")]
    save(tmp_path / "masks/b.png", figure((50, 50)))
    assert ("data.mask_shape", "warning") in problems(settings_for(root, "folder", tmp_path / "masks"))
