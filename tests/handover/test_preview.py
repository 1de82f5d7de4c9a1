"""Which picture goes along with which file."""

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_core.errors import UserError
from lora_core.handover.preview import picture_of, png_of
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
    assert mark in picture_of(run / f"{name}.safetensors").name


def test_a_run_without_samples_has_the_picture_that_lies_beside_it(run):
    assert picture_of(run / "bear.safetensors") is None
    beside = picture(run / "bear.preview.png")
    assert picture_of(run / "bear.safetensors") == beside


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
