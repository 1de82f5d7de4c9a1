"""Regularisation pictures: sizes of the training set, gone on with where it was stopped, nothing replaced."""

import pytest
import torch
from PIL import Image

from lora_core.data.regularisation import DISCARDED, class_folder, discard, still_to_draw, training_sizes
from lora_core.errors import UserError
from lora_core.events import FileSaved, RunFailed, RunFinished, StageChanged
from lora_core.generate.regularisation import regularisation
from lora_core.merge.describe import describe
from lora_core.settings.tools import TOOL_SETTINGS, RegularisationSettings
from lora_core.tools import events_of
from tests.models import tiny_sd_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def settings(model, tmp_path):
    train = tmp_path / "img" / "20_usu bear"
    train.mkdir(parents=True)
    for number, size in enumerate([(64, 64), (96, 64), (64, 96)]):
        Image.new("RGB", size, (60 * number, 90, 90)).save(train / f"{number}.png")
    return RegularisationSettings(
        model={"family": "sd1", "base": str(model)},
        dataset={
            "train_dir": tmp_path / "img",
            "reg_dir": tmp_path / "not there",
            "resolution": "96",
            "min_bucket_reso": 32,
            "bucket_reso_steps": 32,
        },
        folder=tmp_path / "reg",
        prompt="bear",
        count=4,
        seed=7,
        steps=2,
        device="cpu",
    )


def drawn(settings):
    return [event.path for event in regularisation(settings) if isinstance(event, FileSaved)]


def test_the_sizes_are_those_of_the_training_pictures(settings):
    assert training_sizes(settings) == [(64, 64), (96, 64), (64, 96)]
    paths = drawn(settings)
    assert [path.name for path in paths] == [f"{seed:010d}.png" for seed in (7, 8, 9, 10)]
    assert [Image.open(path).size for path in paths] == [(64, 64), (96, 64), (64, 96), (64, 64)]
    assert all(path.parent == settings.folder / "1_bear" for path in paths)


def test_a_picture_says_how_it_was_drawn(settings):
    first = Image.open(drawn(settings.model_copy(update={"count": 1}))[0])
    assert first.text["parameters"].splitlines()[0] == "bear"
    assert "Seed: 7" in first.text["parameters"]


def test_five_for_each_training_picture_where_no_number_is_given(settings):
    settings.count = None
    assert describe(settings).facts["count"] == 15


def test_what_is_there_stays_and_the_whole_is_as_if_it_had_run_through(settings, tmp_path):
    whole = [Image.open(path).tobytes() for path in drawn(settings)]
    again = settings.model_copy(update={"folder": tmp_path / "again"})
    steps = regularisation(again)
    kept = next(event.path for event in steps if isinstance(event, FileSaved))
    steps.close()
    stamp = kept.stat().st_mtime_ns
    rest = drawn(again)
    assert kept not in rest
    assert kept.stat().st_mtime_ns == stamp
    assert [Image.open(path).tobytes() for path in (kept, *rest)] == whole
    assert drawn(again) == []


def test_one_put_aside_is_replaced_by_another_and_never_drawn_again(settings):
    paths = drawn(settings)
    aside = discard(paths[1])
    assert aside.parent == settings.folder / DISCARDED / "1_bear"
    assert not paths[1].exists()
    assert [path.name for path in drawn(settings)] == [f"{11:010d}.png"]


def test_the_caption_goes_with_its_picture(settings):
    settings.captions = True
    path = drawn(settings)[0]
    assert path.with_suffix(".txt").read_text(encoding="utf-8") == "bear\n"
    aside = discard(path)
    assert aside.with_suffix(".txt").exists()
    assert not path.with_suffix(".txt").exists()


def test_what_was_put_aside_is_not_replaced(settings):
    settings.count = 1
    path = drawn(settings)[0]
    first = discard(path)
    Image.new("RGB", (8, 8)).save(path)
    assert discard(path) != first
    assert Image.open(first).size == (64, 64)


@pytest.mark.parametrize(("words", "name"), [("bear", "1_bear"), ("1girl, a/b: c", "1_1girl, a b c"), ("猫", "1_猫")])
def test_the_folder_bears_the_class(settings, words, name):
    assert class_folder(settings.model_copy(update={"prompt": words})).name == name


@pytest.mark.parametrize(
    ("changes", "key"), [({"prompt": " "}, "regularisation.no_class"), ({"folder": None}, "regularisation.no_folder")]
)
def test_what_is_missing_is_said(settings, changes, key):
    with pytest.raises(UserError) as found:
        list(regularisation(settings.model_copy(update=changes)))
    assert found.value.key == key
    assert [problem.key for problem in describe(settings.model_copy(update=changes)).problems] == [key]


def test_without_training_pictures_the_resolution_counts(settings):
    settings.dataset = settings.dataset.model_copy(update={"train_dir": None, "resolution": "64,96"})
    assert [one.size for one in still_to_draw(settings, training_sizes(settings), 2)] == [(64, 96)] * 2


def test_as_a_job_it_can_be_stopped_between_two_pictures(settings):
    assert TOOL_SETTINGS.validate_json(settings.model_dump_json()) == settings
    seen = []

    def stops():
        return sum(isinstance(event, FileSaved) for event in seen) == 2

    for event in events_of(settings, None, stops):
        seen.append(event)
    assert isinstance(seen[-1], RunFinished)
    assert seen[-1].reason == "stopped"
    assert len(list((settings.folder / "1_bear").glob("*.png"))) == 2
    assert not any(isinstance(event, RunFailed) for event in seen)
    assert any(isinstance(event, StageChanged) and event.total == 4 for event in seen)


def test_the_random_numbers_of_others_are_left_alone(settings):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    drawn(settings.model_copy(update={"count": 1}))
    assert torch.equal(torch.rand(1), expected)
