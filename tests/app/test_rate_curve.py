"""The drawn learning rates equal the ones the trainer sets, and are told in words, too."""

import re
from xml.etree import ElementTree

import pytest

from app.live import Look
from app.rate_curve import ASSUMED_STEPS, curve_html, lines
from lora_core.data.folders import Scan
from lora_core.plan import Preview
from lora_core.settings import RunSettings
from lora_core.settings.fields import unions_of
from lora_core.train.schedules import factor


def settings(**sections):
    train = {"unet_lr": 1e-4, "text_encoder_lr": 5e-5} | sections.pop("train", {})
    return RunSettings.model_validate({"train": train, **sections})


def html(of: RunSettings, language="en") -> str:
    return curve_html(Look(of, Preview(Scan((), ()), None)), language)


@pytest.mark.parametrize("name", unions_of()["schedule"])
def test_a_line_is_the_schedule_at_every_step_it_is_drawn_at(name):
    chosen = settings(schedule={"name": name})
    at = factor(chosen.schedule, 360)
    for line, rate in zip(lines(chosen, 360), (1e-4, 5e-5), strict=True):
        assert line.points[0][0] == 0
        assert line.points[-1][0] == 359
        assert [value for _, value in line.points] == [rate * at(step) for step, _ in line.points]


def test_a_text_encoder_that_stops_falls_to_0_there():
    chosen = settings(schedule={"name": "constant"}, train={"stop_text_encoder_training": 50})
    unet, text = lines(chosen, 100)
    assert {rate for _, rate in unet.points} == {1e-4}
    assert [rate for step, rate in text.points if step < 50] == [5e-5] * 50
    assert {rate for step, rate in text.points if step >= 50} == {0.0}


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_picture_is_whole_and_says_what_it_shows(language):
    shown = html(settings(model={"family": "sdxl"}), language)
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", shown)[0])
    drawn = svg.findall("polyline")
    assert len(drawn) == 3
    assert len({line.get("class") for line in drawn}) == 3
    assert svg.get("role") == "img"
    assert "0.0001" in svg.get("aria-label")
    box = [float(n) for n in svg.get("viewBox").split()]
    for line in drawn:
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        assert all(0 <= x <= box[2] and 0 <= y <= box[3] for x, y in points)
    assert f"{ASSUMED_STEPS:,}" in shown


def test_what_has_no_curve_says_why():
    assert "<svg" not in html(settings(optimizer={"name": "Adafactor"}, schedule={"name": "adafactor"}))
    assert "Prodigy" in html(settings(optimizer={"name": "Prodigy"}, train={"unet_lr": 1.0, "text_encoder_lr": 1.0}))
