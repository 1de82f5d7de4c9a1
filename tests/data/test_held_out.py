"""Pictures that are held out: nothing leaks, whatever the folders, copies, repeats and seeds."""

import random
import shutil
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from lora_core.data.folders import scan
from lora_core.data.held_out import digest, held_out_digests, held_out_problems, measured, trained_part
from lora_core.data.samples import build_samples
from lora_core.plan import plan_of_scan
from lora_core.settings import RunSettings


def settings_of(root: Path, **validation) -> RunSettings:
    reg = root / "reg"
    data = {"train_dir": root / "train", "reg_dir": reg if reg.exists() else None, "resolution": "64"}
    return RunSettings(dataset=data, validation={"every_n_epochs": 1} | validation)


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (number % 256, number // 256, 77)).save(path)


def some_folders(root: Path, seed: int) -> None:
    """Folders of unlike sizes and repeats, with copies within and between them, and some among the reg images."""
    rng = random.Random(seed)
    for folder in range(rng.randint(1, 3)):
        for i in range(rng.randint(1, 8)):
            picture(root / "train" / f"{rng.randint(1, 4)}_bear{folder}" / f"{i}.png", rng.randint(0, 12))
    for i in range(rng.randint(0, 3)):
        picture(root / "reg" / "1_bear" / f"{i}.png", rng.randint(0, 12))


def contents(paths) -> set[str]:
    return {digest(path) for path in paths}


@pytest.mark.parametrize("seed", range(25))
def test_no_content_is_on_both_sides(tmp_path, seed: int):
    some_folders(tmp_path, seed)
    settings = settings_of(tmp_path, split=random.Random(seed).choice([0.1, 0.3, 0.5]), seed=seed)
    found = scan(settings.dataset)
    before, after = found.subsets, trained_part(found, settings.validation).subsets
    trained = contents(
        sample.image.path for sample in build_samples(trained_part(found, settings.validation), settings)
    )
    out = held_out_digests(found, settings.validation)
    assert not out & trained
    all_train = contents(image.path for subset in found.train for image in subset.images)
    assert out | trained >= all_train
    assert out <= all_train
    assert [s.folder for s in before] == [s.folder for s in after]  # no folder is emptied
    assert [s.images for s in before if s.is_reg] == [s.images for s in after if s.is_reg]
    pictures = measured(found, settings)
    assert {p.digest for p in pictures if p.held_out} == out
    assert {p.digest for p in pictures if not p.held_out} <= trained
    assert len({p.digest for p in pictures}) == len(pictures)


def test_a_copy_goes_with_its_picture_however_often_it_is_repeated(tmp_path):
    for i in range(10):
        picture(tmp_path / "train" / "3_bear" / f"{i}.png", i)
        (tmp_path / "train" / "2_usu").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "train" / "3_bear" / f"{i}.png", tmp_path / "train" / "2_usu" / f"copy {i}.png")
    settings = settings_of(tmp_path, split=0.2)
    assert plan_of_scan(scan(settings.dataset), settings).train_samples == 8 * 3 + 8 * 2


@pytest.mark.parametrize(
    ("pictures", "split", "count"), [(1, 0.5, 0), (2, 0.1, 1), (10, 0.1, 1), (20, 0.1, 2), (9, 0.5, 4)]
)
def test_how_many(tmp_path, pictures: int, split: float, count: int):
    for i in range(pictures):
        picture(tmp_path / "train" / "1_bear" / f"{i}.png", i)
    settings = settings_of(tmp_path, split=split)
    found = scan(settings.dataset)
    assert len(held_out_digests(found, settings.validation)) == count
    told = [problem.key for problem in held_out_problems(settings, found)]
    assert told == ([] if count else ["data.validation_none_to_spare"])


def test_the_seed_decides_and_names_and_places_do_not(tmp_path):
    for i in range(12):
        picture(tmp_path / "a" / "train" / "1_bear" / f"{i}.png", i)
        picture(tmp_path / "b" / "train" / "5_bear" / f"other name {90 - i}.png", i)
    one, other = (settings_of(tmp_path / side, split=0.25) for side in "ab")
    assert held_out_digests(scan(one.dataset), one.validation) == held_out_digests(
        scan(other.dataset), other.validation
    )
    by_seed = {held_out_digests(scan(one.dataset), one.validation.model_copy(update={"seed": s})) for s in range(8)}
    assert len(by_seed) > 4


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_the_folds_hold_out_every_picture_once(tmp_path, seed: int, folds: int):
    for number in range(12):
        picture(tmp_path / "train" / f"{1 + number % 2}_bear" / f"{number}.png", number)
        picture(tmp_path / "train" / f"{1 + (number + seed) % 2}_bear" / f"copy {number}.png", number)
    found = scan(settings_of(tmp_path).dataset)
    parts = [
        held_out_digests(found, settings_of(tmp_path, fold=f"{part}/{folds}", seed=seed, split=None).validation)
        for part in range(1, folds + 1)
    ]
    assert sum(map(len, parts)) == len(frozenset().union(*parts)) == 12
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("seed", range(10))
def test_no_fold_empties_a_folder_or_takes_a_regularisation_image(tmp_path, seed: int):
    some_folders(tmp_path, seed)
    settings = settings_of(tmp_path, fold="1/2")
    found = scan(settings.dataset)
    out = held_out_digests(found, settings.validation)
    assert all(contents(image.path for image in subset.images) - out for subset in found.train)
    assert not out & contents(image.path for subset in found.reg for image in subset.images)


@pytest.mark.parametrize("fold", ["1/1", "0/2", "3/2", "1/21", "2", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_fold_is_refused(tmp_path, fold: str):
    with pytest.raises(ValidationError, match="2/4"):
        settings_of(tmp_path, fold=fold)


@pytest.mark.parametrize("validation", [{"every_n_epochs": None}, {"split": None}])
def test_without_a_split_the_scan_is_the_very_same(tmp_path, validation: dict):
    some_folders(tmp_path, 3)
    settings = settings_of(tmp_path, **validation)
    found = scan(settings.dataset)
    assert trained_part(found, settings.validation) is found


def test_a_folder_of_pictures_that_are_all_trained_on_is_told(tmp_path):
    for i in range(3):
        picture(tmp_path / "train" / "1_bear" / f"{i}.png", i)
        picture(tmp_path / "own" / f"{i + 2}.png", i + 2)
    settings = settings_of(tmp_path, folder=tmp_path / "own")
    found = scan(settings.dataset)
    assert [p.key for p in held_out_problems(settings, found)][-1] == "data.validation_trained"
    assert len([p for p in measured(found, settings) if p.held_out]) == 2
    settings = settings_of(tmp_path, folder=tmp_path / "train" / "1_bear")
    assert [p.key for p in held_out_problems(settings, found)][-1] == "data.validation_all_trained"
    settings = settings_of(tmp_path, folder=tmp_path / "nowhere")
    (problem,) = held_out_problems(settings, found)
    assert (problem.path, problem.severity) == ("validation.folder", "error")
