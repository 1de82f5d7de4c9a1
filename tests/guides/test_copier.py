"""A copier LoRA of two pictures: the preset for every family, and nothing of another training left."""

import pytest
from PIL import Image

from lora_core.checks import combination_problems
from lora_core.data.folders import scan
from lora_core.errors import UserError
from lora_core.guides.copier import problems_of, settings_for
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values


@pytest.fixture
def pair(tmp_path):
    for name, side in (("before", 64), ("after", 64), ("large", 96)):
        picture = Image.new("RGB", (side, side), (200, 200, 200))
        picture.paste((200, 0, 0), (20, 20, 30, 30 if name == "after" else 20))
        picture.save(tmp_path / f"{name}.png")
    return tmp_path / "before.png", tmp_path / "after.png"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "flux"])
def test_every_family_trains_the_pair_alone(pair, tmp_path, family):
    page = with_values(
        RunSettings(),
        {
            "model.family": family,
            "dataset.config": tmp_path / "other.toml",
            "dataset.reg_dir": tmp_path,
            "dataset.trigger_words": "usu",
            "sample.prompts": "a bear",
        },
    )
    settings = settings_for(*pair, page)
    assert combination_problems(settings) == []
    assert settings.model.family == family
    assert settings.sample.prompts == "a bear"
    (subset,) = scan(settings.dataset).subsets
    assert [image.path for image in subset.images] == [pair[1]]
    assert subset.class_tokens == ""


def test_pictures_that_are_no_pair_are_refused(pair, tmp_path):
    bad = {
        "guides.no_pair": (None, None),
        "data.pair_one_only": (pair[0], None),
        "data.pair_missing": (pair[0], tmp_path / "gone.png"),
        "data.pair_equal": (pair[0], pair[0]),
        "data.pair_sizes": (pair[0], tmp_path / "large.png"),
    }
    for key, (before, after) in bad.items():
        with pytest.raises(UserError) as refused:
            settings_for(before, after, RunSettings())
        assert refused.value.key == key


def test_a_pair_has_nothing_against_it(pair):
    assert problems_of(*pair) == []
