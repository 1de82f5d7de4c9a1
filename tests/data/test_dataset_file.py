"""Dataset files in the format of sd-scripts: what each option falls back on, how datasets are kept apart, and what is
said about a file that is wrong.
"""

import json
import math
from pathlib import Path

import pytest

from lora_core.data.checks import checked
from lora_core.data.dataset import TrainingData
from lora_core.data.dataset_file import DATASET_OPTIONS, IGNORED, KNOWN, NOT_HERE, ROW_KEYS, SUBSET_OPTIONS
from lora_core.data.epoch import epoch_batches
from lora_core.data.folders import scan
from lora_core.data.metadata import dataset_metadata
from lora_core.data.samples import build_samples, fingerprint
from lora_core.i18n import LANGUAGES
from lora_core.plan import plan_of_scan, preview
from lora_core.settings import DatasetSettings, LossSettings, RunSettings, TrainSettings

SD_SCRIPTS = {
    "alpha_mask",
    "batch_size",
    "bucket_no_upscale",
    "bucket_reso_steps",
    "cache_info",
    "caption_dropout_every_n_epochs",
    "caption_dropout_rate",
    "caption_extension",
    "caption_prefix",
    "caption_separator",
    "caption_suffix",
    "caption_tag_dropout_rate",
    "class_tokens",
    "color_aug",
    "conditioning_data_dir",
    "custom_attributes",
    "enable_bucket",
    "enable_wildcard",
    "face_crop_aug_range",
    "flip_aug",
    "image_dir",
    "is_reg",
    "keep_tokens",
    "keep_tokens_separator",
    "max_bucket_reso",
    "metadata_file",
    "min_bucket_reso",
    "network_multiplier",
    "num_repeats",
    "random_crop",
    "resize_interpolation",
    "resolution",
    "secondary_separator",
    "shuffle_caption",
    "token_warmup_min",
    "token_warmup_step",
    "validation_seed",
    "validation_split",
}
"""Every option of a dataset config, for DreamBooth, fine-tuning and ControlNet datasets."""

FOUR = """
[general]
keep_tokens = 1
caption_extension = ".caption"

[[datasets]]
resolution = 64
batch_size = 2
bucket_reso_steps = 16

  [[datasets.subsets]]
  image_dir = "bears"
  class_tokens = "usu bear"
  num_repeats = 3
  shuffle_caption = true

  [[datasets.subsets]]
  image_dir = "reg"
  class_tokens = "bear"
  is_reg = true

[[datasets]]
resolution = [96, 64]
bucket_reso_steps = 32

  [[datasets.subsets]]
  image_dir = "cats"
  class_tokens = "usu cat"
  keep_tokens = 2
  flip_aug = true

  [[datasets.subsets]]
  image_dir = "bears"
  class_tokens = "usu bear far"
  custom_attributes = { loss_weight = 0.5 }
"""


@pytest.fixture
def four(make_folder, tmp_path) -> Path:
    make_folder("bears", 4, captions=["usu bear, hat"], caption_ending=".caption")
    make_folder("reg", 3)
    make_folder("cats", 3, size=(96, 64))
    return write(tmp_path / "d.toml", FOUR)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def settings_of(path: Path, batch_size: int = 4, prior: float = 1.0, **dataset) -> RunSettings:
    return RunSettings(
        dataset=DatasetSettings(config=path, **dataset),
        train=TrainSettings(train_batch_size=batch_size, epochs=2),
        loss=LossSettings(prior_loss_weight=prior),
    )


def said(path: Path, **dataset) -> list[tuple[str, str]]:
    settings = DatasetSettings(config=path, **dataset)
    problems = checked(scan(settings), settings, deep=False).problems
    assert all(
        p.path == "dataset.config" and len(p.message(language)) < 500 for p in problems for language in LANGUAGES
    )
    return [(p.key, p.severity) for p in problems]


# ---- Every key -------------------------------------------------------------------------------------------------------


def test_every_key_of_sd_scripts_is_accounted_for():
    assert SD_SCRIPTS | {"loss_weight"} == KNOWN
    groups = [set(DATASET_OPTIONS), set(SUBSET_OPTIONS), set(ROW_KEYS), set(IGNORED), set(NOT_HERE)]
    assert set.union(*groups) == KNOWN - {"custom_attributes"}
    assert sum(map(len, groups)) == len(KNOWN) - 1  # each in one place
    assert {*DATASET_OPTIONS, *SUBSET_OPTIONS} <= DatasetSettings.model_fields.keys()


@pytest.mark.parametrize("key", sorted(NOT_HERE))
def test_what_does_nothing_here_is_named_at_its_row(four, key):
    below = key == "alpha_mask"
    text = FOUR.replace('image_dir = "cats"', f'image_dir = "cats"\n{key} = 3') if below else f"{FOUR}"
    text = text if below else text.replace("resolution = 64", f"resolution = 64\n{key} = 3")
    write(four, text)
    problems = scan(DatasetSettings(config=four)).problems
    found = [p for p in problems if p.key == "data.file_not_here"]
    assert found
    assert all(key in p.message("ja") and p.severity == "warning" for p in found)


# ---- Falling back ----------------------------------------------------------------------------------------------------


def test_an_option_counts_from_the_lowest_level_that_gives_it(four):
    found = scan(DatasetSettings(config=four, flip_aug=False, caption_prefix="photo", keep_tokens=7))
    assert found.problems == ()
    bears, reg, cats, far = (s.options for s in found.subsets)
    assert [o.keep_tokens for o in (bears, reg, cats, far)] == [1, 1, 2, 1]  # general, general, subset, general
    assert [o.flip_aug for o in (bears, reg, cats, far)] == [False, False, True, False]  # run, run, subset, run
    assert [o.shuffle_caption for o in (bears, reg, cats, far)] == [True, False, False, False]
    assert {o.caption_prefix for o in (bears, reg, cats, far)} == {"photo"}
    assert [o.resolution for o in (bears, cats)] == ["64", "96,64"]
    rows = [
        (s.dataset, s.name, s.repeats, s.class_tokens, s.is_reg, s.batch_size, s.loss_weight) for s in found.subsets
    ]
    assert rows == [
        (1, "bears", 3, "usu bear", False, 2, 1.0),
        (1, "reg", 1, "bear", True, 2, 1.0),
        (2, "cats", 1, "usu cat", False, None, 1.0),
        (2, "bears", 1, "usu bear far", False, None, 0.5),
    ]
    assert [s.captions for s in found.subsets] == [1, 0, 0, 1]


def test_kohyas_zero_is_off(four):
    write(four, FOUR.replace("keep_tokens = 1", "caption_dropout_every_n_epochs = 0\ntoken_warmup_step = 0"))
    options = scan(DatasetSettings(config=four, token_warmup_step=0.5)).subsets[0].options
    assert (options.caption_dropout_every_n_epochs, options.token_warmup_step) == (None, None)


def test_json_says_the_same(four):
    import tomllib

    again = write(four.with_name("d.json"), json.dumps(tomllib.loads(FOUR)))
    assert scan(DatasetSettings(config=again)) == scan(DatasetSettings(config=four))


# ---- Samples, batches, steps -----------------------------------------------------------------------------------------


def test_regularisation_is_matched_per_dataset_and_weights_multiply(four):
    samples = build_samples(scan(DatasetSettings(config=four)), settings_of(four, prior=0.25))
    count = {}
    for sample in samples:
        key = (sample.subset.dataset, sample.subset.name)
        count[key] = count.get(key, 0) + 1
    assert count == {(1, "bears"): 12, (1, "reg"): 12, (2, "cats"): 3, (2, "bears"): 4}
    assert {s.loss_weight for s in samples if s.subset.is_reg} == {0.25}
    assert {s.loss_weight for s in samples if s.subset.dataset == 2} == {1.0, 0.5}
    without = build_samples(scan(DatasetSettings(config=four)), settings_of(four, prior=0))
    assert not any(sample.subset.is_reg for sample in without)


def test_batches_mix_neither_buckets_nor_datasets(four):
    samples = build_samples(scan(DatasetSettings(config=four)), settings_of(four))
    batches = epoch_batches(samples, 4, seed=1, epoch=1)
    assert sorted(i for batch in batches for i in batch) == list(range(len(samples)))
    for batch in batches:
        assert len({(samples[i].subset.dataset, samples[i].placement.bucket) for i in batch}) == 1
        assert len(batch) <= (2 if samples[batch[0]].subset.dataset == 1 else 4)


def test_a_datasets_own_batch_size_is_that_of_one_process(four):
    settings = settings_of(four)
    settings.launch.processes = 3
    plan = plan_of_scan(scan(settings.dataset), settings)
    assert [dataset.batch_size for dataset in plan.datasets] == [6, 12]


def test_steps_per_epoch(four):
    """Dataset 1: 24 samples of one bucket in twos; dataset 2: 3 wide and 4 small pictures in fours."""
    settings = settings_of(four)
    found = scan(settings.dataset)
    plan = plan_of_scan(found, settings)
    assert plan.batches_per_epoch == 12 + math.ceil(3 / 4) + math.ceil(4 / 4)
    assert plan.total_steps == 2 * 14
    assert [(d.number, d.resolution, d.batch_size, d.samples, d.batches) for d in plan.datasets] == [
        (1, "64 × 64", 2, 24, 12),
        (2, "96 × 64", 4, 7, 2),
    ]
    data = TrainingData(build_samples(found, settings), 4)
    assert data.batches_per_epoch == plan.batches_per_epoch
    assert preview(settings).plan == plan
    for language in LANGUAGES:
        assert any("96 × 64" in line for line in plan.lines(language))


def test_a_batch_knows_its_step_for_the_warm_up(four):
    """8 tags behind the first; the run has 28 steps of one batch and 10 of three."""
    write(four, FOUR.replace("shuffle_caption = true", "token_warmup_step = 1.0"))
    write(four.parent / "bears" / "00.caption", "usu, 1, 2, 3, 4, 5, 6, 7, 8")
    settings = settings_of(four)
    samples = build_samples(scan(settings.dataset), settings)
    for accumulation in (1, 3):
        steps = 2 * math.ceil(14 / accumulation)
        for until in (10.0, 0.5):
            for sample in samples:
                sample.subset.options.token_warmup_step = until
            data = TrainingData(samples, 4, accumulation=accumulation, total_steps=steps)
            last = until if until > 1 else math.floor(until * steps)
            for epoch in (1, 2):
                for index in range(14):
                    step = (epoch - 1) * math.ceil(14 / accumulation) + index // accumulation
                    wanted = math.floor(step * 7 / last) + 1 if step < last else 8
                    batch = data.batch(epoch, index, 0)
                    for caption in (c for c in batch.captions if c.startswith("usu, ")):
                        assert len(caption.split(", ")) == 1 + wanted


def test_any_batch_can_be_had_at_any_time_with_every_caption_option(four):
    """Resuming sees what the unbroken run saw, whatever is drawn for a caption."""
    every = "shuffle_caption = true\ntoken_warmup_step = 0.5\ncaption_tag_dropout_rate = 0.3\nenable_wildcard = true"
    write(four, FOUR.replace("shuffle_caption = true", f"{every}\ncaption_prefix = '{{a|b}}'"))
    for number in range(4):
        write(four.parent / "bears" / f"{number:02d}.caption", "usu, 1, 2, 3, 4, 5\nusu, 6, 7, 8")
    settings = settings_of(four)
    make = lambda: TrainingData(build_samples(scan(settings.dataset), settings), 4, total_steps=28)  # noqa: E731
    data, again = make(), make()
    seen = {(e, i): data.batch(e, i, 5).captions for e in (1, 2) for i in range(data.batches_per_epoch)}
    assert len({caption for captions in seen.values() for caption in captions}) > 12
    for (epoch, index), captions in reversed(seen.items()):
        assert again.batch(epoch, index, 5).captions == captions
    shown = {caption for captions in seen.values() for caption in captions}
    assert again.captions_shown(2, 5, 1000) == shown


def test_the_fingerprint_knows_datasets_and_stays_for_folders(four, make_folder, tmp_path):
    settings = settings_of(four)
    first = fingerprint(build_samples(scan(settings.dataset), settings))
    write(four, FOUR.replace("batch_size = 2", "batch_size = 3"))
    assert fingerprint(build_samples(scan(settings.dataset), settings)) != first


def test_metadata_as_sd_scripts_writes_it_for_a_dataset_file(four):
    settings = settings_of(four)
    found = scan(settings.dataset)
    told = dataset_metadata(found, build_samples(found, settings), buckets_enabled=True, batch_size=4)
    assert {"ss_bucket_info"}.isdisjoint(told)
    assert (told["ss_num_train_images"], told["ss_num_reg_images"]) == ("19", "3")
    first, second = json.loads(told["ss_datasets"])
    assert first.keys() == second.keys()
    assert (first["resolution"], first["batch_size_per_device"]) == ([64, 64], 2)
    assert (second["resolution"], second["batch_size_per_device"], second["num_train_images"]) == ([96, 64], 4, 7)
    assert [s["image_dir"] for s in first["subsets"]] == ["bears", "reg"]
    assert first["subsets"][0]["shuffle_caption"] is True
    assert first["tag_frequency"]["bears"] == {"usu bear": 4, "hat": 1}
    assert str(four.parent) not in json.dumps(told)


# ---- What is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "place", "key"),
    [
        ("num_repeats = 3", "num_repeats = 0", "Dataset 1, subset 1, num_repeats", "settings.at_least"),
        ("num_repeats = 3", 'num_repeats = "many"', "Dataset 1, subset 1, num_repeats", "settings.not_whole"),
        ("num_repeats = 3", "num_repeat = 3", "Dataset 1, subset 1, num_repeat", "data.file_unknown"),
        ("keep_tokens = 1", "keep_token = 1", "[general], keep_token", "data.file_unknown"),
        ("keep_tokens = 2", "keep_tokens = -2", "Dataset 2, subset 1, keep_tokens", "settings.at_least"),
        ("flip_aug = true", 'flip_aug = "perhaps"', "Dataset 2, subset 1, flip_aug", "settings.not_yes_no"),
        ("flip_aug = true", "resolution = 64", "Dataset 2, subset 1, resolution", "data.file_of_dataset"),
        ("batch_size = 2", "is_reg = true", "Dataset 1, is_reg", "data.file_of_subset"),
        ('image_dir = "cats"', 'image_dir = "dogs"', "Dataset 2, subset 1", "data.folder_missing"),
        ('image_dir = "cats"', "", "Dataset 2, subset 1", "data.file_no_folder"),
        ("loss_weight = 0.5", "loss_weight = 0", "Dataset 2, subset 2, loss_weight", "settings.greater_than"),
        ("resolution = 64", "resolution = 8", "Dataset 1, subset 1, resolution", "settings.resolution"),
        ("bucket_reso_steps = 16", "bucket_reso_steps = 20", "Dataset 1, bucket_reso_steps", "checks.bucket_steps"),
        ('caption_extension = ".caption"', 'caption_extension = ".tags"', "caption_extension", "settings.choice"),
        ("[general]", "[genral]", "[general], genral", "data.file_unknown"),
    ],
)  # fmt: skip
def test_a_bad_row_is_said_at_its_row(four, old, new, place, key):
    assert old in FOUR
    write(four, FOUR.replace(old, new, 1))
    found = scan(DatasetSettings(config=four)).problems
    (problem,) = [p for p in found if p.key == key and p.severity == "error"][:1]
    assert place in problem.message("en")
    assert problem.message("ja") != problem.message("en")


def test_a_folder_twice_in_one_dataset_is_used_once(four):
    write(four, FOUR.replace('image_dir = "cats"', 'image_dir = "bears"'))
    assert said(four) == [("data.file_twice", "warning")]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[[datasets]]\nresolution = 512", "data.file_no_subset"),
        ("datasets = [1]", "data.file_no_subset"),
        ("datasets = 5", "data.file_no_subset"),
        ("", "data.file_no_subset"),
        ("[[datasets]]\nsubsets = 3", "data.file_no_table"),
        ("[[datasets]]\nsubsets = [3]", "data.file_no_table"),
        ("general = 1\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 3", "data.file_no_table"),
        ("[[datasets]\n", "settings.file_broken"),
    ],
)
def test_a_broken_file_is_a_sentence(tmp_path, text, key):
    path = write(tmp_path / "d.toml", text)
    assert key in {key for key, severity in said(path) if severity == "error"}
    assert (key != "settings.file_broken") or "1" in scan(DatasetSettings(config=path)).problems[0].message("en")


def test_a_file_that_is_not_there(tmp_path):
    assert said(tmp_path / "none.toml") == [("settings.file_missing", "error")]


def test_random_crops_and_the_cache(four):
    write(four, FOUR.replace("flip_aug = true", "random_crop = true"))
    assert said(four) == [("checks.cache_random_crop", "error")]
    assert said(four, cache_latents="off") == []


def test_masks_of_a_subset_come_from_its_own_folder(four, make_folder):
    from lora_core.data.mask_files import find_masks

    make_folder("masks", 3)
    write(four, FOUR.replace("flip_aug = true", 'conditioning_data_dir = "masks"'))
    masks = find_masks(None, scan(DatasetSettings(config=four)))
    root = four.parent
    assert masks == {root / "cats" / f"0{i}.png": root / "masks" / f"0{i}.png" for i in range(3)}


# ---- Fine-tuning: captions in one file -------------------------------------------------------------------------------


@pytest.fixture
def listed(make_folder, tmp_path) -> Path:
    folder = make_folder("cats", 3)
    entries = {
        "00": {"caption": "a cat", "tags": "hat, snow", "train_resolution": [512, 512]},
        str(folder / "01.png"): {"tags": "sun"},
        r"C:\elsewhere\02.png": {"caption": "a cat\nin two lines"},
    }
    (tmp_path / "meta.json").write_text(json.dumps(entries), encoding="utf-8")
    return write(
        tmp_path / "d.toml", "[[datasets]]\n[[datasets.subsets]]\nimage_dir='cats'\nmetadata_file='meta.json'\n"
    )


def test_a_caption_list_gives_captions_and_tags(listed):
    settings = settings_of(listed)
    samples = build_samples(scan(settings.dataset), settings)
    assert [sample.caption for sample in samples] == ["a cat,hat, snow", "sun", "a cat"]
    assert said(listed) == []
    several = settings_of(listed, enable_wildcard=True)
    assert build_samples(scan(several.dataset), several)[2].caption == "a cat\nin two lines"


def test_a_caption_list_without_a_dataset_file(listed):
    dataset = DatasetSettings(train_dir=listed.parent / "cats", metadata_file=listed.parent / "meta.json")
    found = scan(dataset)
    assert [(s.repeats, s.is_reg, s.dataset, s.captions) for s in found.subsets] == [(1, False, 0, 3)]
    assert found.problems == ()


@pytest.mark.parametrize(
    ("entry", "key", "severity"),
    [
        ({"dog": {"caption": "a dog"}}, "data.list_missing", "error"),
        ({"00": "a cat"}, "data.list_odd", "error"),
        ({"00": {}, "01": {"tags": "x"}}, "data.list_no_caption", "warning"),
        ({"00": {"caption": ""}}, "data.list_no_caption", "error"),
        ({}, "data.list_empty", "error"),
    ],
)
def test_what_a_caption_list_lacks_is_said_by_name(listed, entry, key, severity):
    (listed.parent / "meta.json").write_text(json.dumps(entry), encoding="utf-8")
    found = scan(DatasetSettings(config=listed)).problems
    assert [(p.key, p.severity) for p in found] == [(key, severity)]
    assert not entry or next(iter(entry)) in found[0].message("en")


def test_null_in_a_caption_list_means_no_caption_on_purpose(listed):
    entries = {"00": {"caption": None}, "01": {"caption": None, "tags": "hat"}}
    (listed.parent / "meta.json").write_text(json.dumps(entries), encoding="utf-8")
    settings = settings_of(listed)
    samples = build_samples(scan(settings.dataset), settings)
    assert [sample.caption for sample in samples] == ["", "hat"]
    assert said(listed) == []


def test_missing_images_of_a_list_can_be_skipped(listed):
    (listed.parent / "meta.json").write_text(json.dumps({"dog": {"tags": "x"}, "00": {"tags": "x"}}), encoding="utf-8")
    assert said(listed, skip_bad_images=True) == [("data.list_missing", "warning")]
