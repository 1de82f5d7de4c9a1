"""The arithmetic of steps, on a table of cases and in words."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_core.data.folders import scan
from lora_core.data.samples import build_samples
from lora_core.i18n import LANGUAGES
from lora_core.plan import Plan, preview
from lora_core.settings import DatasetSettings, LossSettings, RunSettings, TrainSettings


def make_folder(folder: Path, count: int, size: tuple[int, int] = (64, 64)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    first = len(list(folder.iterdir()))
    for index in range(first, first + count):
        Image.new("RGB", size, (index % 256, 0, 0)).save(folder / f"{index:03d}.png")


def plan_for(root: Path, **train) -> Plan:
    reg_dir = root / "reg" if (root / "reg").is_dir() else None
    dataset = DatasetSettings(train_dir=root / "train", reg_dir=reg_dir, resolution="64", bucket_reso_steps=16)
    loss = {name: train.pop(name) for name in ("prior_loss_weight",) if name in train}
    settings = RunSettings(dataset=dataset, train=TrainSettings(**train), loss=LossSettings(**loss))
    samples = build_samples(scan(dataset), settings)
    plan = Plan.of(samples, settings, reg_images_found=sum(len(subset.images) for subset in scan(dataset).reg))
    assert preview(settings).plan == plan
    return plan


TWO = {"train_batch_size": 2}
# train folders (name, images of 64 x 64, images of 64 x 32), regularisation images, settings -> batches, steps, total
TABLE = [
    ("20 x 15, batch 2", [("20_usu bear", 15, 0)], 0, {"train_batch_size": 2}, (150, 150, 1500)),
    ("with regularisation", [("20_usu bear", 15, 0)], 10, {"train_batch_size": 2}, (300, 300, 3000)),
    ("regularisation off", [("20_usu bear", 15, 0)], 10, {**TWO, "prior_loss_weight": 0}, (150, 150, 1500)),
    ("one image", [("1_bear", 1, 0)], 0, {"epochs": 1}, (1, 1, 1)),
    ("batch larger than the set", [("1_bear", 3, 0)], 0, {"train_batch_size": 8}, (1, 1, 10)),
    ("buckets do not mix", [("1_bear", 3, 3)], 0, {"train_batch_size": 2}, (4, 4, 40)),
    ("many small buckets", [("5_bear", 1, 1)], 0, {"train_batch_size": 4}, (4, 4, 40)),
    ("accumulation", [("1_bear", 10, 0)], 0, {"gradient_accumulation_steps": 4}, (10, 3, 30)),
    ("accumulation and batches", [("3_bear", 5, 0)], 0, {**TWO, "gradient_accumulation_steps": 3}, (8, 3, 30)),
    ("cut in the middle", [("10_bear", 1, 0)], 0, {"max_train_steps": 25}, (10, 10, 25)),
    ("limit beyond the end", [("10_bear", 1, 0)], 0, {"max_train_steps": 500, "epochs": 2}, (10, 10, 20)),
    ("two folders", [("2_bear", 3, 0), ("5_cat", 1, 0)], 0, {"epochs": 3}, (11, 11, 33)),
    ("more regularisation than needed", [("1_bear", 2, 0)], 7, {"epochs": 1}, (4, 4, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("case", "folders", "reg", "train", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_steps(tmp_path, case, folders, reg, train, expected):
    for name, square, wide in folders:
        make_folder(tmp_path / "train" / name, square)
        make_folder(tmp_path / "train" / name, wide, (64, 32))
    if reg:
        make_folder(tmp_path / "reg" / "1_bear", reg)
    plan = plan_for(tmp_path, **train)
    assert (plan.batches_per_epoch, plan.steps_per_epoch, plan.total_steps) == expected
    assert (plan.epochs - 1) * plan.steps_per_epoch < plan.total_steps <= plan.epochs * plan.steps_per_epoch
    for language in LANGUAGES:
        lines = plan.lines(language)
        assert f"{plan.total_steps:,}" in lines[-1]
        assert all("{" not in line for line in lines)


def test_spelled_out(tmp_path):
    make_folder(tmp_path / "train" / "20_usu bear", 15)
    make_folder(tmp_path / "reg" / "1_bear", 10)
    plan = plan_for(tmp_path, train_batch_size=2)
    assert plan.lines("en") == [
        "20_usu bear: 20 × 15 images = 300",
        "Regularisation (1_bear): 10 images, shown 300 times",
        "With regularisation: 300 + 300 = 600",
        "600 / batch size 2 = 300 steps per epoch",
        "300 steps × 10 epochs = 3,000 steps",
    ]
    assert len(plan.lines("ja")) == 5
    assert (plan.train_images, plan.train_samples, plan.reg_images, plan.reg_samples) == (15, 300, 10, 300)


def test_what_is_left_out_is_said(tmp_path):
    make_folder(tmp_path / "train" / "1_bear", 2)
    make_folder(tmp_path / "reg" / "1_bear", 7)
    assert "2 of 7 images" in "\n".join(plan_for(tmp_path).lines("en"))
    assert "prior loss weight is 0" in "\n".join(plan_for(tmp_path, prior_loss_weight=0).lines("en"))
    assert "Stops after 3 steps" in plan_for(tmp_path, max_train_steps=3).lines("en")[-1]


def test_accumulation_is_spelled_out(tmp_path):
    make_folder(tmp_path / "train" / "1_bear", 9)
    assert plan_for(tmp_path, train_batch_size=2, gradient_accumulation_steps=2, epochs=1).lines("en")[1:] == [
        "9 / batch size 2 = 5 batches per epoch (the last batch is smaller)",
        "5 batches / 2 accumulated = 3 steps per epoch",
        "3 steps × 1 epoch = 3 steps",
    ]


def test_many_folders_are_summed_up(tmp_path):
    for number in range(1, 11):
        make_folder(tmp_path / "train" / f"{number}_bear", 1)
    assert plan_for(tmp_path).lines("en")[0] == "10 folders with 10 images, with their repeats = 55"
    assert len(plan_for(tmp_path).lines("ja")) == 3


class TestPreview:
    def test_nothing_chosen(self):
        found = preview(RunSettings())
        assert found.plan is None
        assert [problem.key for problem in found.scan.problems] == ["data.no_folder"]

    def test_a_file_that_is_no_image_does_not_count(self, tmp_path):
        make_folder(tmp_path / "2_bear", 2)
        (tmp_path / "2_bear" / "x.png").write_bytes(b"no")
        found = preview(RunSettings(dataset=DatasetSettings(train_dir=tmp_path)))
        assert found.plan.train_samples == 4
        assert not found.scan.ok


def test_needs_no_torch():
    code = "import sys, lora_core.plan, lora_core.data.metadata; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
