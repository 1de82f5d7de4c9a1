"""Types that clean what people paste, and the arguments of optimizers."""

from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.settings import (
    DatasetSettings,
    ModelSettings,
    OptimizerSettings,
    RunSettings,
    SaveSettings,
    parse_args,
    sides,
)
from lora_core.settings.base import from_windows
from lora_core.settings.overlay import with_values
from lora_core.settings.problems import SettingsError


@pytest.mark.parametrize(
    ("pasted", "path"),
    [
        ("/data/bears", "/data/bears"),
        ('  "/data/usu bear"  ', "/data/usu bear"),
        ("'C:\\絵\\くま'", "C:\\絵\\くま"),
        ("“/data/bears”", "/data/bears"),
        ("file:///data/usu%20bear", "/data/usu bear"),
        ("file:///C:/bears", "C:/bears"),
        ("~/bears", str(Path.home() / "bears")),
    ],
)
def test_a_pasted_path_is_cleaned(pasted, path):
    assert DatasetSettings(train_dir=pasted).train_dir == Path(path)
    assert ModelSettings(base=pasted).base == path


@pytest.mark.parametrize("empty", ["", "   ", '""', None])
def test_an_empty_path_is_not_set(empty):
    assert DatasetSettings(train_dir=empty).train_dir is None


def test_a_source_model_may_be_a_name():
    assert ModelSettings(base=" owner/model ").base == "owner/model"
    assert ModelSettings(base='""').base == ""


@pytest.mark.parametrize(
    ("given", "width", "height"),
    [("512", 512, 512), (768, 768, 768), ("600,900", 600, 900), ("600 x 900", 600, 900), ([64, 96], 64, 96)],
)
def test_a_resolution_is_one_number_or_two(given, width, height):
    assert sides(DatasetSettings(resolution=given).resolution) == (width, height)


@pytest.mark.parametrize("given", ["", "big", "512,512,512", "8", "-64", "512.5", "99999"])
def test_what_is_no_resolution_is_refused(given):
    with pytest.raises(SettingsError, match="width,height"):
        with_values(RunSettings(), {"dataset.resolution": given})


@pytest.mark.parametrize("name", ["usu bear v2", "くま", "a.b", "CON2"])
def test_an_output_name_is_a_plain_file_name(name):
    assert SaveSettings(output_name=name).output_name == name


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..", "x.", " x", "a:b", "NUL", "com1.txt", "a\nb", "what?"])
def test_a_name_that_some_system_refuses_is_refused_everywhere(name):
    with pytest.raises(SettingsError):
        with_values(RunSettings(), {"save.output_name": name})


def test_optimizer_arguments_are_python_values_or_text():
    assert parse_args("betas=(0.9,0.99)\n d_coef=2  mode=fast flag=True") == {
        "betas": (0.9, 0.99),
        "d_coef": 2,
        "mode": "fast",
        "flag": True,
    }


@pytest.mark.parametrize("text", ["betas", "=1", "a= 1", "2x=1"])
def test_optimizer_arguments_that_are_no_pairs_are_named(text):
    with pytest.raises(UserError, match="key=value"):
        parse_args(text)


def test_every_optimizer_refuses_unreadable_arguments_in_words():
    for variant in OptimizerSettings.__origin__.__args__:
        name = variant.model_fields["name"].default
        with pytest.raises(SettingsError, match="key=value"):
            with_values(RunSettings(), {"optimizer.name": name, "optimizer.args": "oops"})


def test_a_windows_path_is_found_where_windows_drives_are_mounted(tmp_path):
    (tmp_path / "c").mkdir()
    assert from_windows(r"C:\Users\me\20_usu bear", "C", tmp_path) == str(tmp_path / "c/Users/me/20_usu bear")
    assert from_windows(r"D:\pictures", "D", tmp_path) == r"D:\pictures"
