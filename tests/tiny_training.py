"""The settings file of a training that takes seconds, on a tiny random model and two pictures."""

from pathlib import Path
from typing import Any

from PIL import Image

from lora_core.settings import RunSettings
from lora_core.settings.files import save_settings
from tests.models import tiny_sd_folder


def write_settings(root: Path, **train: Any) -> Path:
    """Model, pictures and settings under ``root``; ``train`` is that section of them."""
    images = root / "images" / "1_usu bear"
    images.mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (64, 64), (90, 100 * i, 90)).save(images / f"{i}.png")
    settings = RunSettings(
        model={"base": str(tiny_sd_folder(root / "tiny"))},
        dataset={"train_dir": images.parent, "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 2, "alpha": 2},
        optimizer={"name": "AdamW"},
        train={"mixed_precision": "no"} | train,
        save={"output_dir": root / "out", "output_name": "usu"},
    )
    return save_settings(settings, root / "my settings.toml")
