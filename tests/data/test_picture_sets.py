"""Two folders: pairs by name, opposites without names, and what is no two sets of pictures."""

import pytest
from PIL import Image

from lora_core.data.folders import scan
from lora_core.data.picture_sets import MOST_REPEATS, opposites, partners, sides_fingerprint
from lora_core.data.samples import build_samples
from lora_core.plan import preview
from lora_core.settings import DatasetSettings, RunSettings


@pytest.fixture
def place(tmp_path):
    """Fills a folder with pictures: grey, with a square of a colour of its own in a corner."""

    def make(folder: str, names: str, side: int = 64, square: tuple = (200, 0, 0)):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names.split():
            picture = Image.linear_gradient("L").resize((side, side)).convert("RGB")
            picture.paste(square, (10, 10, 20, 20))
            picture.save(tmp_path / folder / name)
        return tmp_path / folder

    return make


def dataset(before, after, **more) -> DatasetSettings:
    return DatasetSettings(
        pair_before=before, pair_after=after, resolution="64", min_bucket_reso=32, bucket_reso_steps=32, **more
    )


def test_names_make_pairs_whatever_their_ending(place):
    before, after = place("a", "1.png 2.png 3.png"), place("b", "2.PNG 1.webp", square=(0, 0, 200))
    settings = dataset(before, after, trigger_words="bear", flip_aug=True)
    assert partners(settings) == {after / "1.webp": before / "1.png", after / "2.PNG": before / "2.png"}
    assert opposites(settings) == frozenset()
    found = scan(settings)
    (subset,) = found.subsets
    assert [image.path.name for image in subset.images] == ["1.webp", "2.PNG"]
    assert (subset.class_tokens, subset.repeats, subset.options.flip_aug) == ("bear", 5, False)
    assert [(problem.key, problem.values["names"]) for problem in found.problems] == [("data.sets_alone", "a/3.png")]


def test_without_names_in_common_folders_are_opposites(place):
    before, after = place("a", "1.png 2.png"), place("b", "x.png y.png z.png w.png")
    settings = dataset(before, after)
    assert partners(settings) == {}
    assert opposites(settings) == {before / "1.png", before / "2.png"}
    found = scan(settings)
    assert [(subset.dataset, subset.repeats) for subset in found.subsets] == [(1, 4), (2, 2)]
    assert [subset.setting for subset in found.subsets] == ["dataset.pair_before", "dataset.pair_after"]
    assert [problem.key for problem in found.problems] == ["data.sets_opposites"]
    samples = build_samples(found, RunSettings(dataset=settings))
    assert len([s for s in samples if s.image.path in opposites(settings)]) == len(samples) / 2


def test_a_small_folder_is_not_shown_without_end(place):
    before, after = place("a", "1.png 2.png"), place("b", " ".join(f"x{i}.png" for i in range(50)))
    assert [subset.repeats for subset in scan(dataset(before, after)).subsets] == [MOST_REPEATS, 1]


def test_opposites_never_share_a_batch(place):
    before, after = place("a", "1.png 2.png 3.png"), place("b", "x.png y.png")
    found = preview(RunSettings(dataset=dataset(before, after), train={"train_batch_size": 4}))
    assert [count.samples for count in found.plan.datasets] == [9, 12]
    assert [count.batches for count in found.plan.datasets] == [3, 3]


def test_swapped_sides_are_other_data(place):
    for names in ("1.png 2.png", "x.png y.png"):
        before, after = place("a", "1.png 2.png"), place(f"b{len(names)}", names, square=(0, 200, 0))
        assert sides_fingerprint(dataset(before, after)) != sides_fingerprint(dataset(after, before))
    assert sides_fingerprint(DatasetSettings()) == ""


@pytest.mark.parametrize(
    ("which", "key"),
    [
        ("mixed", "data.pair_mixed"),
        ("same", "data.sets_same"),
        ("empty", "data.sets_empty"),
        ("single", "data.sets_one"),
        ("gone", "data.pair_missing"),
        ("sizes", "data.pair_sizes"),
        ("equal", "data.sets_equal"),
    ],
)
def test_what_is_no_two_sets_is_said(place, tmp_path, which, key):
    one = place("a", "1.png 2.png")
    (tmp_path / "nothing").mkdir()
    pair = {
        "mixed": lambda: (one, one / "1.png"),
        "same": lambda: (one, tmp_path / "nothing" / ".." / "a"),
        "empty": lambda: (one, tmp_path / "nothing"),
        "single": lambda: (one, place("b", "x.png")),
        "gone": lambda: (one, tmp_path / "gone"),
        "sizes": lambda: (one, place("b", "1.png", side=96)),
        "equal": lambda: (one, place("b", "1.png")),
    }[which]()
    found = scan(dataset(*pair))
    assert [problem.key for problem in found.problems if problem.severity == "error"] == [key]
    for language in ("en", "ja"):
        assert all("{" not in problem.message(language) for problem in found.problems)


def test_pairs_that_differ_everywhere_are_warned_of(place, tmp_path):
    before, after = place("a", "1.png"), tmp_path / "b"
    after.mkdir()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").rotate(45).save(after / "1.png")
    found = scan(dataset(before, after))
    assert found.ok
    assert [problem.key for problem in found.problems] == ["data.sets_unaligned"]
