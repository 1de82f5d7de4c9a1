"""What the file says about its data."""

import json

from lora_core.data.folders import scan
from lora_core.data.metadata import dataset_metadata
from lora_core.data.samples import build_samples
from lora_core.settings import DatasetSettings, RunSettings


def test_counts(make_folder, tmp_path):
    make_folder("train/3_usu bear", 2, size=(64, 64), captions=["usu bear, Hat", "usu bear,, 雪"])
    make_folder("train/2_usu cat", 1, size=(128, 64))
    make_folder("reg/1_bear", 2, size=(64, 64))
    settings = RunSettings(dataset=DatasetSettings(train_dir=tmp_path / "train", reg_dir=tmp_path / "reg"))
    found = scan(settings.dataset)
    metadata = dataset_metadata(found, build_samples(found, settings), buckets_enabled=True)
    assert metadata["ss_num_train_images"] == "8"
    assert metadata["ss_num_reg_images"] == "2"
    nested = {key: json.loads(value) for key, value in metadata.items() if not key.startswith("ss_num")}
    assert nested == {
        "ss_dataset_dirs": {
            "2_usu cat": {"n_repeats": 2, "img_count": 1},
            "3_usu bear": {"n_repeats": 3, "img_count": 2},
        },
        "ss_reg_dataset_dirs": {"1_bear": {"n_repeats": 1, "img_count": 2}},
        "ss_tag_frequency": {
            "2_usu cat": {"usu cat": 1},
            "3_usu bear": {"usu bear": 2, "hat": 1, "雪": 1},
            "1_bear": {"bear": 2},
        },
        "ss_bucket_info": {
            "buckets": {"0": {"resolution": [64, 64], "count": 14}, "1": {"resolution": [128, 64], "count": 2}},
            "mean_img_ar_error": 0.0,
        },
    }
    assert dataset_metadata(found, [], buckets_enabled=False)["ss_bucket_info"] == "null"
