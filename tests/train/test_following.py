"""Prompt-following: the formula, whom it asks, and that it stands with the other numbers of an epoch."""

import pytest
import torch

from lora_core.data.folders import scan
from lora_core.data.held_out import Picture
from lora_core.events import ValidationDone
from lora_core.settings import RunSettings
from lora_core.train.following import Words, joined, share_kept, words_of
from lora_core.train.validation import texts_asked
from tests.train.test_loop import changed, events_of, images, model, only, settings  # noqa: F401

ON = {"every_n_epochs": 1, "split": None, "timesteps": 2, "unrelated_prompts": "a house\n\n in snow "}


def pictures_of(settings: RunSettings) -> list[Picture]:  # noqa: F811
    found = scan(settings.dataset)
    return [Picture(image, subset, str(image.path), False) for subset in found.subsets for image in subset.images]


@pytest.mark.parametrize("kept", [1.0, 0.5, 0.0, -0.25])
def test_it_is_the_part_that_points_where_the_source_model_points(kept: float):
    """Whatever is added at right angles to it."""
    base, other = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(1)).unbind(0)
    across = other - base * ((other * base).sum() / (base * base).sum())
    assert share_kept(kept * base + 7 * across, base) == pytest.approx(kept, abs=1e-5)


def test_an_answer_that_never_was_is_not_lost():
    assert share_kept(torch.randn(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)) == 1


def test_the_words_are_those_of_the_trained_folder(settings):  # noqa: F811
    on = changed(settings, validation={**ON, "class_prompt": " bear "})
    words = words_of(on.validation, pictures_of(on))
    assert words == Words("usu bear", "bear", ("a house", "in snow"))
    assert "usu bear, in snow" in words.asked
    assert "bear, a house" in words.asked


def test_nothing_is_asked_without_trigger_words_or_contexts(settings, images):  # noqa: F811
    """The words of regularisation images are no trigger."""
    on = changed(settings, validation=ON, dataset={"reg_dir": images / "reg"})
    pictures = pictures_of(on)
    reg = [p for p in pictures if p.subset.is_reg]
    assert reg
    assert words_of(on.validation, reg) is None
    assert words_of(changed(on, validation={"unrelated_prompts": " \n"}).validation, pictures) is None


def test_without_a_class_the_context_stands_alone():
    assert joined("", "in snow") == "in snow"
    assert joined("usu bear", "in snow") == "usu bear, in snow"


def test_all_texts_are_encoded_while_the_text_encoders_are_there(settings):  # noqa: F811
    on = changed(settings, validation=ON)
    pictures = pictures_of(on)
    assert words_of(on.validation, pictures).asked <= texts_asked(on, pictures)


def test_a_new_lora_follows_as_before_and_a_wild_one_does_not(settings):  # noqa: F811
    """Where the class is the trigger itself, the source model is compared with itself before the first step."""
    wild = {"epochs": 1, "learning_rate": 0.3}
    on = changed(settings, validation={**ON, "class_prompt": "usu bear"}, train=wild)
    before, after = (event.following for event in only(events_of(on), ValidationDone))
    assert before == pytest.approx(1, abs=1e-6)
    assert abs(after - 1) > 0.05
