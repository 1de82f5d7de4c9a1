"""Batches as the loop gets them: complete, and the same whenever and in whatever order they are asked for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from lora_core.data.dataset import Batch, TrainingData, latent_cache
from lora_core.data.folders import scan
from lora_core.data.pixels import load_pixels
from lora_core.data.samples import build_samples
from lora_core.settings import DatasetSettings, LossSettings, RunSettings

OPTIONS = {"shuffle_caption": True, "keep_tokens": 1, "caption_dropout_rate": 0.2}
VARIANTS = {
    "memory": {"cache_latents": "memory", "flip_aug": True},
    "disk": {"cache_latents": "disk", "flip_aug": True},
    "pixels": {"cache_latents": "off", "flip_aug": True},
    "random crop": {"cache_latents": "off", "random_crop": True, "flip_aug": True},
}


def encode(pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    means = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
    return means, means.abs() + 0.1


@pytest.fixture
def root(make_folder, tmp_path) -> Path:
    tags = ["usu bear, sitting, hat, snow", "usu bear, standing, sun, tree"]
    for name, size in [("train/3_usu bear", (70, 50)), ("train/2_usu bear tall", (48, 80)), ("reg/1_bear", (70, 50))]:
        for path in make_folder(name, 3, captions=tags).glob("*.png"):
            Image.effect_noise(size, 80).convert("RGB").save(path)
    return tmp_path


def make_data(root: Path, batch_size: int = 2, **options) -> TrainingData:
    settings = RunSettings(
        dataset=DatasetSettings(
            train_dir=root / "train", reg_dir=root / "reg", resolution="64", bucket_reso_steps=16, **OPTIONS | options
        ),
        loss=LossSettings(prior_loss_weight=0.5),
    )
    samples = build_samples(scan(settings.dataset), settings)
    return TrainingData(samples, batch_size, latent_cache(settings.dataset, encode, "vae"))


def same(a: Batch, b: Batch) -> bool:
    tensors = [("mean_BCHW", "std_BCHW"), ("pixels_BCHW",)][a.pixels_BCHW is not None]
    return (
        (a.captions, a.paths) == (b.captions, b.paths)
        and torch.equal(a.loss_weights_B, b.loss_weights_B)
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_batch_can_be_had_at_any_time(root, variant):
    """Resuming: a new process that starts at batch n sees what the unbroken run saw."""
    data = make_data(root, **VARIANTS[variant])
    seen = {
        (epoch, index): data.batch(epoch, index, seed=5) for epoch in (1, 2) for index in range(data.batches_per_epoch)
    }
    again = make_data(root, **VARIANTS[variant])
    for (epoch, index), batch in reversed(seen.items()):
        assert same(again.batch(epoch, index, seed=5), batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stream_gives_the_same_batches_from_any_start(root, variant):
    data = make_data(root, **VARIANTS[variant])
    batches = list(data.stream(2, 3, seed=1))
    assert len(batches) == data.batches_per_epoch - 3
    for index, batch in enumerate(batches, start=3):
        assert same(batch, data.batch(2, index, seed=1))


def test_an_epoch_is_complete(root):
    data = make_data(root)
    batches = list(data.stream(1, 0, seed=0))
    assert sum(len(batch) for batch in batches) == len(data.samples) == 30
    weights = torch.cat([batch.loss_weights_B for batch in batches])
    assert (weights == 0.5).sum() == (weights == 1).sum() == 15
    for batch in batches:
        assert batch.mean_BCHW.shape == batch.std_BCHW.shape
        assert batch.mean_BCHW.shape[0] == len(batch.captions) == len(batch.paths)
        for path, weight in zip(batch.paths, batch.loss_weights_B, strict=True):
            assert ("reg" in path.parts) == (weight == 0.5)


def test_the_weight_of_a_sample_reaches_its_batch_whatever_made_it(root):
    """A folder's own weight multiplies that of regularisation."""
    data = make_data(root)
    samples = [replace(sample, loss_weight=sample.loss_weight * 0.3) for sample in data.samples]
    weighted = TrainingData(samples, 2, data.latents)
    for index in range(data.batches_per_epoch):
        plain, found = data.batch(1, index, seed=0), weighted.batch(1, index, seed=0)
        assert plain.paths == found.paths
        torch.testing.assert_close(found.loss_weights_B, 0.3 * plain.loss_weights_B)


def test_showings_of_one_image_differ(root):
    data = make_data(root, caption_dropout_rate=0.0)
    captions = [c for epoch in range(1, 6) for b in data.stream(epoch, 0, 0) for c in b.captions if "sitting" in c]
    assert len(set(captions)) > 2
    assert all(caption.startswith("usu bear, ") for caption in captions)


def test_seeds_and_epochs_differ(root):
    data = make_data(root)
    firsts = [str(data.batch(epoch, 0, seed).captions) for epoch in (1, 2, 3) for seed in (0, 1, 2)]
    assert len(set(firsts)) > 3


def test_half_are_mirrored(root):
    data = make_data(root, cache_latents="off", flip_aug=True)
    mirrored = total = 0
    for epoch in range(1, 8):
        for index in range(data.batches_per_epoch):
            batch = data.batch(epoch, index, seed=0)
            for path, pixels in zip(batch.paths, batch.pixels_BCHW, strict=True):
                placement = next(sample.placement for sample in data.samples if sample.image.path == path)
                plain = load_pixels(path, placement)
                assert torch.equal(pixels, plain) or torch.equal(pixels, plain.flip(2))
                mirrored += not torch.equal(pixels, plain)
                total += 1
    assert 0.35 < mirrored / total < 0.65


def test_cached_latents_are_the_encoded_pixels(root):
    cached, plain = make_data(root, flip_aug=True), make_data(root, flip_aug=True, cache_latents="off")
    for index in range(cached.batches_per_epoch):
        mean, std = encode(plain.batch(1, index, seed=3).pixels_BCHW)
        batch = cached.batch(1, index, seed=3)
        torch.testing.assert_close(batch.mean_BCHW, mean)
        torch.testing.assert_close(batch.std_BCHW, std)


def test_random_crops_lie_inside_and_reach_both_ends(root):
    data = make_data(root, random_crop=True, cache_latents="off")
    assert data.latents is None
    crops = set()
    for epoch in range(1, 60):
        for position, sample in enumerate(data.samples):
            left, top = data._showing(position, epoch, 0).crop
            place = sample.placement
            assert 0 <= left <= place.resized[0] - place.bucket[0]
            assert 0 <= top <= place.resized[1] - place.bucket[1]
            crops.add((place.bucket, left))
    wide = next(sample.placement for sample in data.samples if sample.placement.resized[0] > sample.placement.bucket[0])
    reached = {left for bucket, left in crops if bucket == wide.bucket}
    assert reached == set(range(wide.resized[0] - wide.bucket[0] + 1))


def test_pixels_are_between_minus_1_and_1(tmp_path):
    image = Image.new("RGB", (64, 64), "white")
    image.paste((0, 0, 0), (0, 0, 64, 32))
    image.save(tmp_path / "a.png")
    data = make_data_of(tmp_path)
    pixels = data.batch(1, 0, 0).pixels_BCHW
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels[0, :, 0].unique().tolist() == [-1]
    assert pixels[0, :, -1].unique().tolist() == [1]


def make_data_of(folder: Path) -> TrainingData:
    settings = RunSettings(
        dataset=DatasetSettings(
            train_dir=folder, trigger_words="bear", resolution="64", bucket_reso_steps=16, cache_latents="off"
        )
    )
    return TrainingData(build_samples(scan(settings.dataset), settings), 1)
