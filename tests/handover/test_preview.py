"""Which picture goes along with which file."""

import base64
import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_core.errors import UserError
from lora_core.handover.preview import picture_of, png_of, sample_of
from lora_core.inspect.header import inspect_header
from tests.handover.conftest import picture


@pytest.fixture
def run(tmp_path):
    """A training that drew two prompts before it began and after each of three epochs, and once at a step."""
    for mark, when in (("000000", 10), ("e000001", 20), ("e000002", 30), ("000250", 35), ("e000003", 40)):
        for index in (0, 1):
            picture(tmp_path / "sample" / f"usu_{mark}_{index:02d}_202611210000{when + index}_7.png")
    picture(tmp_path / "sample" / "other_e000009_00_20261121000099_7.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("usu", "e000003_00"),
        ("usu-ema", "e000003_00"),
        ("usu-best", "e000003_00"),
        ("usu-000002", "e000002_00"),
        ("usu-000002-ema", "e000002_00"),
        ("usu-step00000260", "000250_00"),
        ("other", "e000009_00"),
    ],
)
def test_the_first_prompts_sample_of_the_time_the_file_was_saved(run, name, mark):
    assert mark in sample_of(run / f"{name}.safetensors").name


def test_without_samples_it_is_the_picture_that_lies_beside_it(run, make_lora):
    lora = make_lora(run / "bear.safetensors")
    assert picture_of(inspect_header(lora)) is None
    beside = picture(run / "bear.preview.png")
    assert picture_of(inspect_header(lora)) == beside


def test_a_picture_inside_the_file_comes_before_that(run, make_lora):
    picture(run / "bear.png")
    inside = picture(run / "inside.png", "blue").read_bytes()
    url = "data:image/png;base64," + base64.b64encode(inside).decode()
    lora = make_lora(run / "bear.safetensors", **{"modelspec.thumbnail": url})
    assert png_of(picture_of(inspect_header(lora))) == inside


def test_a_png_stays_as_it_is_with_its_parameters(tmp_path):
    info = PngInfo()
    info.add_text("parameters", "usu bear\nSteps: 20")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert png_of(tmp_path / "a.png") == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("ending", ["jpg", "webp", "bmp"])
def test_other_pictures_become_png(tmp_path, ending):
    made = Image.open(io.BytesIO(png_of(picture(tmp_path / f"a.{ending}", "blue"))))
    assert (made.format, made.size) == ("PNG", (8, 8))
    assert abs(made.getpixel((4, 4))[2] - 255) < 4


@pytest.mark.parametrize("data", [None, b"", b"\x89PNG\r\n\x1a\n", b"no picture"])
def test_what_is_no_picture_is_said(tmp_path, data):
    path = tmp_path / "a.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as error:
        png_of(path)
    assert error.value.key == "handover.bad_picture"
