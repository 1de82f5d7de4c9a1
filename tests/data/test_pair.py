"""Two pictures of a copier LoRA: are they aligned, how much differs, and what the scan makes of them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_core.data.checks import checked
from lora_core.data.folders import scan
from lora_core.data.pair import SHOWN_PER_EPOCH, compare, difference_picture
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.plan import Plan, plan_of_scan
from lora_core.preflight import check
from lora_core.settings import DatasetSettings, RunSettings


def scene(shift=0, seed=0):
    """A picture with outlines all over it."""
    picture = Image.new("RGB", (96, 96), "#dddddd")
    pen = ImageDraw.Draw(picture)
    rng = np.random.default_rng(seed)
    for _ in range(12):
        x, y, r = (int(value) for value in rng.integers(5, 85, 3))
        pen.ellipse((x + shift, y + shift, x + shift + r // 3, y + shift + r // 3), fill=tuple(rng.integers(0, 255, 3)))
    return picture


@pytest.fixture
def save(tmp_path):
    def saved(before, after):
        paths = tmp_path / "before.png", tmp_path / "after.png"
        for picture, path in zip((before, after), paths, strict=True):
            picture.save(path)
        return paths

    return saved


def with_dot(picture):
    changed = picture.copy()
    ImageDraw.Draw(changed).rectangle((0, 0, 23, 23), fill="red")
    return changed


def test_the_share_is_that_of_the_changed_area(save):
    found = compare(*save(scene(), with_dot(scene())))
    assert found.share == pytest.approx(24 * 24 / 96**2, abs=0.01)
    assert found.is_aligned
    assert not found.is_equal


def test_another_colour_everywhere_is_aligned(save):
    found = compare(*save(scene(), Image.eval(scene(), lambda value: value // 2)))
    assert found.share > 0.9
    assert found.is_aligned


@pytest.mark.parametrize("other", [scene(seed=5).rotate(180), scene(shift=9, seed=3)], ids=["another", "moved"])
def test_two_different_pictures_are_not(save, other):
    noisy = Image.fromarray(np.random.default_rng(1).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    assert not compare(*save(noisy, other)).is_aligned


def test_the_difference_shows_what_changed_and_fades_the_rest(save):
    shown = np.asarray(difference_picture(*save(scene(), with_dot(scene()))))
    assert tuple(shown[5, 5]) == (255, 0, 0)
    assert shown[60:, 60:].min() > 200


def test_other_sizes_are_no_pair(save):
    with pytest.raises(UserError) as found:
        compare(*save(scene(), scene().resize((64, 96))))
    assert found.value.key == "data.pair_sizes"
    assert all("64 × 96" in found.value.message(language) for language in LANGUAGES)


def dataset(before, after, **more):
    return DatasetSettings(pair_before=before, pair_after=after, resolution="96", min_bucket_reso=32, **more)


def test_the_pair_is_a_dataset_without_folders(save):
    before, after = save(scene(), with_dot(scene()))
    found = checked(scan(dataset(before, after, flip_aug=True, bucket_reso_steps=32)), dataset(before, after))
    assert found.ok
    (subset,) = found.subsets
    assert [image.path for image in subset.images] == [after]
    assert not subset.options.flip_aug
    plan = plan_of_scan(found, RunSettings(train={"train_batch_size": 2, "epochs": 6}))
    assert isinstance(plan, Plan)
    assert plan.total_steps == 6 * SHOWN_PER_EPOCH // 2


@pytest.mark.parametrize(
    ("pictures", "path", "key", "severity"),
    [
        ((scene(), None), "dataset.pair_after", "data.pair_one_only", "error"),
        ((scene(), scene()), "dataset.pair_after", "data.pair_equal", "error"),
        ((scene(), scene().resize((64, 64))), "dataset.pair_before", "data.pair_sizes", "error"),
        (
            (Image.effect_noise((96, 96), 99).convert("RGB"), scene()),
            "dataset.pair_after",
            "data.pair_unaligned",
            "warning",
        ),
    ],
    ids=["one only", "equal", "sizes", "unaligned"],
)
def test_what_is_wrong_is_said_before_a_run(save, pictures, path, key, severity):
    before, after = save(pictures[0], pictures[1] or pictures[0])
    settings = RunSettings(dataset=dataset(before, None if pictures[1] is None else after, bucket_reso_steps=32))
    found = {problem.key: problem for problem in check(settings)}
    assert (found[key].path, found[key].severity) == (path, severity)
    assert all(found[key].message(language) for language in LANGUAGES)
    assert "preflight.no_images_folder" not in found


def test_a_picture_that_is_not_there_is_named(save, tmp_path):
    before, _ = save(scene(), scene())
    (problem,) = scan(dataset(before, tmp_path / "gone.png")).problems
    assert problem.key == "data.pair_missing"
    assert "gone.png" in problem.message("en")
