"""Which preset is proposed for which model and card."""

import pytest

from lora_core.families import FAMILIES
from lora_core.guides.offers import KINDS, OFFERS, Source, best_offer, offers_for, presets_of, too_small
from lora_core.settings.presets import find_preset


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer.preset)
def test_a_row_names_a_preset_of_its_family_that_has_an_aim(offer):
    preset = find_preset(offer.preset)
    assert preset.values["model.family"] == offer.family
    assert preset.steps
    assert offer.preset in presets_of(Source(offer.family, **({offer.only: True} if offer.only else {})))


@pytest.mark.parametrize("gigabytes", [None, 4.0, 8.0, 12.0, 24.0, 141.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_there_is_always_a_proposal_and_it_fits_if_any_does(family, kind, gigabytes):
    source = Source(family)
    found = best_offer(source, kind, gigabytes)
    assert kind in found.kinds
    if gigabytes is not None and any(offer.needs <= gigabytes for offer in offers_for(source, kind)):
        assert found.needs <= gigabytes + 0.6


@pytest.mark.parametrize(
    ("source", "kind", "gigabytes", "preset"),
    [
        (Source("sd1", built_in=True), "style", 24.0, "demo"),
        (Source("sd1"), "character", 8.0, "sd15_character"),
        (Source("sd1"), "character", 6.0, "sd15_low_memory"),
        (Source("sd2"), "style", 12.0, "sd15_style"),
        (Source("sdxl"), "character", 8.0, "sdxl_8gb"),
        (Source("sdxl"), "character", 11.99, "sdxl_12gb"),
        (Source("sdxl"), "character", 23.99, "sdxl_24gb"),
        (Source("sdxl"), "style", 23.99, "sdxl_style"),
        (Source("sdxl"), "style", 16.0, "sdxl_16gb"),
        (Source("sdxl", tagged=True), "character", 16.0, "illustrious_character"),
        (Source("sdxl", v_prediction=True, tagged=True), "character", 24.0, "noobai_vpred_character"),
        (Source("sdxl"), "character", None, "sdxl_12gb"),
        (Source("flux"), "character", 12.0, "flux_12gb"),
        (Source("flux"), "style", 15.9, "flux_16gb"),
        (Source("flux"), "object", 24.0, "flux_24gb"),
        (Source("flux"), "character", 32.0, "flux_character"),
    ],
)
def test_the_proposal_for_a_model_and_a_card(source, kind, gigabytes, preset):
    assert best_offer(source, kind, gigabytes).preset == preset


def test_a_card_that_is_too_small_is_told():
    assert too_small(Source("flux"), 8.0) == 12
    assert too_small(Source("flux"), None) is None
    assert too_small(Source("sdxl"), 7.8) is None
    assert too_small(Source("sd1", built_in=True), 1.0) is None
