"""Latents: encoded once, found again only for exactly the same picture, never half a file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from lora_core.data.folders import scan
from lora_core.data.latents import DiskStore, Entry, LatentCache, MemoryStore, entries_of
from lora_core.data.samples import Sample, build_samples
from lora_core.errors import UserError
from lora_core.settings import DatasetSettings, RunSettings


class CountingVae:
    """Means of 8 x 8 pixel blocks: enough of a VAE to tell pictures apart."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(pixels_BCHW))
        means = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
        return torch.cat([means, means[:, :1]], 1), means.new_full((len(means), 4, *means.shape[2:]), 0.1)


@pytest.fixture
def samples(make_folder, tmp_path) -> list[Sample]:
    folder = make_folder("train/2_usu bear", 3)
    for path in folder.glob("*.png"):
        Image.effect_noise((70, 50), 80).convert("RGB").save(path)
    make_folder("train/1_usu cat", 1, size=(50, 70))
    settings = RunSettings(dataset=DatasetSettings(train_dir=tmp_path / "train", resolution="64", bucket_reso_steps=16))
    return build_samples(scan(settings.dataset), settings)


def flipped(samples: list[Sample]) -> list[Sample]:
    """The samples of folders whose pictures are mirrored half of the time."""
    options = DatasetSettings(flip_aug=True)
    return [replace(sample, subset=replace(sample.subset, options=options)) for sample in samples]


def make_store(kind: str, folder: Path | None = None) -> MemoryStore | DiskStore:
    return MemoryStore() if kind == "memory" else DiskStore(folder)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("flip", [False, True])
def test_each_picture_is_encoded_once(samples, kind, flip):
    vae = CountingVae()
    cache = LatentCache(vae, "vae", make_store(kind))
    calls = []
    samples = flipped(samples) if flip else samples
    cache.fill(samples, progress=lambda *call: calls.append(call))
    pictures = 4 * (2 if flip else 1)
    assert sum(vae.batches) == pictures
    assert calls == [(done, pictures) for done in range(pictures + 1)]
    for entry in entries_of(samples):
        latent = cache.get(entry)
        assert (
            latent.mean.shape == latent.std.shape == (4, entry.placement.bucket[1] // 8, entry.placement.bucket[0] // 8)
        )
        assert latent.mean.dtype == torch.float32
    assert sum(vae.batches) == pictures


def test_mirrored_is_mirrored(samples):
    cache = LatentCache(CountingVae(), "vae", MemoryStore())
    entry = Entry(samples[0].image.path, samples[0].placement)
    assert torch.equal(cache.get(replace(entry, flipped=True)).mean, cache.get(entry).mean.flip(2))


def test_batches_hold_one_size(samples):
    vae = CountingVae()
    LatentCache(vae, "vae", MemoryStore(), vae_batch_size=2).fill(samples)
    assert sorted(vae.batches) == [1, 1, 2]


def test_disk_serves_the_next_run(samples):
    first, second = CountingVae(), CountingVae()
    caches = [LatentCache(vae, "vae", DiskStore()) for vae in (first, second)]
    samples = flipped(samples)
    for cache in caches:
        cache.fill(samples)
    assert len(first.batches) == 8
    assert not second.batches
    for entry in entries_of(samples):
        assert torch.equal(caches[0].get(entry).mean, caches[1].get(entry).mean)
    assert (samples[0].image.path.parent / ".kumakobo").is_dir()


def test_a_folder_of_ones_own(samples, tmp_path):
    LatentCache(CountingVae(), "vae", DiskStore(tmp_path / "キャッシュ" / "a")).fill(samples)
    assert len(list((tmp_path / "キャッシュ" / "a").iterdir())) == 4
    assert not (samples[0].image.path.parent / ".kumakobo").exists()


def test_cache_folder_is_no_part_of_the_dataset(samples, tmp_path):
    before = scan(DatasetSettings(train_dir=tmp_path / "train"))
    LatentCache(CountingVae(), "vae", DiskStore()).fill(samples)
    assert scan(DatasetSettings(train_dir=tmp_path / "train")) == before


@pytest.mark.parametrize("change", ["pixels", "vae", "precision", "bucket", "resized", "crop", "flip"])
def test_the_key_holds_all_that_matters(samples, change):
    entry = Entry(samples[0].image.path, samples[0].placement)
    before = LatentCache(CountingVae(), "vae", MemoryStore()).key(entry)
    identity, precision = ("other" if change == "vae" else "vae"), ("bf16" if change == "precision" else "fp32")
    if change == "pixels":
        Image.effect_noise((70, 50), 80).convert("RGB").save(entry.path)
    elif change in ("bucket", "resized", "crop"):
        entry = replace(entry, placement=replace(entry.placement, **{change: (1, 2)}))
    elif change == "flip":
        entry = replace(entry, flipped=True)
    assert LatentCache(CountingVae(), identity, MemoryStore(), precision=precision).key(entry) != before


def test_the_name_of_an_image_does_not_matter(samples, tmp_path):
    entry = Entry(samples[0].image.path, samples[0].placement)
    copy = tmp_path / "copy.png"
    copy.write_bytes(entry.path.read_bytes())
    cache = LatentCache(CountingVae(), "vae", MemoryStore())
    assert cache.key(replace(entry, path=copy)) == cache.key(entry)


@pytest.mark.parametrize("damage", ["truncated", "bit", "empty", "rubbish"])
def test_damaged_files_are_made_again(samples, damage):
    LatentCache(CountingVae(), "vae", DiskStore()).fill(samples)
    entry = Entry(samples[0].image.path, samples[0].placement)
    vae = CountingVae()
    cache = LatentCache(vae, "vae", DiskStore())
    path = cache.store.path(entry, cache.key(entry))
    data = bytearray(path.read_bytes())
    whole = bytes(data)
    data[-5] ^= 1
    path.write_bytes({"truncated": whole[:-7], "bit": bytes(data), "empty": b"", "rubbish": b"x" * 500}[damage])
    cache.fill(samples)
    assert vae.batches == [1]
    assert path.read_bytes() == whole


def test_nothing_half_written_stays(samples, monkeypatch):
    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError) as caught:
        LatentCache(CountingVae(), "vae", DiskStore()).fill(samples)
    assert caught.value.key == "data.cache_unwritable"
    assert "No space left" in str(caught.value)
    assert not list((samples[0].image.path.parent).rglob("*.tmp"))


def test_unwritable_folder(samples, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        LatentCache(CountingVae(), "vae", DiskStore(tmp_path / "file")).fill(samples)


def test_a_vae_that_fails_names_the_picture(samples):
    def nan(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels * torch.nan, pixels

    with pytest.raises(UserError) as caught:
        LatentCache(nan, "vae", MemoryStore()).fill(samples)
    assert caught.value.key == "data.latent_not_finite"


def test_a_broken_image_is_named(samples):
    samples[0].image.path.write_bytes(b"no image any more")
    with pytest.raises(UserError, match=r"00\.png"):
        LatentCache(CountingVae(), "vae", MemoryStore()).fill(samples)


def test_an_image_changed_during_the_run_does_not_change_the_run(samples):
    cache = LatentCache(CountingVae(), "vae", MemoryStore())
    cache.fill(samples)
    entry = Entry(samples[0].image.path, samples[0].placement)
    before = cache.get(entry)
    entry.path.unlink()
    assert cache.get(entry) is before
