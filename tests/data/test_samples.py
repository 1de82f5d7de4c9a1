"""Repeats, regularisation topped up, weights, captions and the fingerprint."""

import shutil
from pathlib import Path

import pytest

from lora_core.data.folders import ImageFile, Subset, scan
from lora_core.data.samples import Repeated, build_samples, fingerprint, top_up
from lora_core.settings import DatasetSettings, LossSettings, RunSettings


def run_settings(train_dir: Path, reg_dir: Path | None = None, **loss) -> RunSettings:
    return RunSettings(dataset=DatasetSettings(train_dir=train_dir, reg_dir=reg_dir), loss=LossSettings(**loss))


def samples_of(settings: RunSettings):
    return build_samples(scan(settings.dataset), settings)


def reg_images(*repeats: int) -> list[Repeated]:
    subset = Subset(Path("1_bear"), 1, "bear", True, ())
    return [Repeated(ImageFile(Path(f"{index}.png")), subset, count) for index, count in enumerate(repeats)]


def one_by_one(repeats: list[int], wanted: int) -> list[int]:
    """The rule as it is told: walk over the images again and again until there are enough."""
    shown, total, first_round = [0] * len(repeats), 0, True
    while total < wanted:
        for index, count in enumerate(repeats):
            more = count if first_round else 1
            shown[index] += more
            total += more
            if total >= wanted:
                break
        first_round = False
    return [count for count in shown if count]


@pytest.mark.parametrize("repeats", [[1], [1, 1, 1], [3, 3, 3, 3], [5, 1, 2], [1] * 10, [100]])
@pytest.mark.parametrize("wanted", [0, 1, 2, 3, 7, 12, 13, 100, 101])
def test_top_up(repeats, wanted):
    taken = top_up(reg_images(*repeats), wanted)
    assert [item.repeats for item in taken] == one_by_one(repeats, wanted)
    total = sum(item.repeats for item in taken)
    assert wanted <= total <= wanted + max(repeats) - 1 or wanted == total == 0


def test_no_regularisation_images():
    assert top_up([], 10) == []


def test_repeats_weights_and_order(make_folder, tmp_path):
    make_folder("train/3_usu bear", 2, captions=["usu bear, sitting"])
    make_folder("reg/1_bear", 4)
    samples = samples_of(run_settings(tmp_path / "train", tmp_path / "reg", prior_loss_weight=0.5))
    train, reg = samples[:6], samples[6:]
    assert [(s.image.path.name, s.caption, s.loss_weight) for s in train] == (
        [("00.png", "usu bear, sitting", 1.0)] * 3 + [("01.png", "usu bear", 1.0)] * 3
    )
    assert [s.image.path.name for s in reg] == ["00.png"] * 2 + ["01.png"] * 2 + ["02.png", "03.png"]
    assert {(s.caption, s.loss_weight) for s in reg} == {("bear", 0.5)}


def test_too_many_regularisation_images_are_left_out(make_folder, tmp_path):
    make_folder("train/1_usu bear", 2)
    make_folder("reg/1_bear", 5)
    assert len(samples_of(run_settings(tmp_path / "train", tmp_path / "reg"))) == 4


def test_prior_loss_weight_0_turns_regularisation_off(make_folder, tmp_path):
    make_folder("train/2_usu bear", 2)
    make_folder("reg/1_bear", 2)
    samples = samples_of(run_settings(tmp_path / "train", tmp_path / "reg", prior_loss_weight=0))
    assert len(samples) == 4
    assert not any(sample.subset.is_reg for sample in samples)


def test_an_empty_caption_file_is_an_empty_caption(make_folder, tmp_path):
    make_folder("train/1_usu bear", 1, captions=[""])
    assert samples_of(run_settings(tmp_path / "train"))[0].caption == ""


class TestFingerprint:
    @pytest.fixture
    def settings(self, make_folder, tmp_path) -> RunSettings:
        make_folder("train/2_usu bear", 3, captions=["a", "b"])
        return run_settings(tmp_path / "train")

    def test_same_for_a_moved_folder(self, settings, tmp_path):
        before = fingerprint(samples_of(settings))
        shutil.copytree(tmp_path / "train", tmp_path / "moved")
        assert fingerprint(samples_of(run_settings(tmp_path / "moved"))) == before

    @pytest.mark.parametrize("change", ["pixels", "caption", "repeats", "image", "order", "resolution", "weight"])
    def test_changes_with_what_training_sees(self, settings, make_folder, tmp_path, change):
        before = fingerprint(samples_of(settings))
        folder = tmp_path / "train" / "2_usu bear"
        if change == "pixels":
            make_folder("train/2_usu bear", 3, size=(64, 49))
        elif change == "caption":
            (folder / "01.txt").write_text("c")
        elif change == "repeats":
            folder.rename(tmp_path / "train" / "3_usu bear")
        elif change == "image":
            (folder / "02.png").unlink()
        elif change == "order":
            (folder / "00.png").rename(folder / "03.png")
            (folder / "00.txt").rename(folder / "03.txt")
        elif change == "resolution":
            settings = settings.model_copy(
                update={"dataset": settings.dataset.model_copy(update={"resolution": "32", "bucket_reso_steps": 8})}
            )
        else:
            make_folder("reg/1_bear", 1)
            settings = run_settings(tmp_path / "train", tmp_path / "reg")
        assert fingerprint(samples_of(settings)) != before
