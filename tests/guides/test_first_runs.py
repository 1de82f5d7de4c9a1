"""Which runs First LoRA led to: by the names it filled in, whatever became of its file."""

import pytest

from lora_core.guides import first_runs
from lora_core.guides.first_runs import MOST_NAMES, names, newest_run, remember
from lora_core.guides.four_step import is_named
from lora_core.runs import RunFolder, create_run
from lora_core.settings import RunSettings


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "家"))


def run(name: str) -> RunFolder:
    return create_run(RunSettings(save={"output_name": name}))


def test_the_newest_run_of_a_remembered_name_is_found():
    assert newest_run() is None
    own = run("うす くま")
    assert newest_run() is None
    remember("うす くま")
    run("うす くま 2")
    assert newest_run() == own
    assert newest_run() != run("うす くま")


def test_a_name_is_kept_once_and_old_ones_are_forgotten():
    for number in range(MOST_NAMES + 5):
        remember(f"usu-{number}")
        remember("bear")
    assert names()[-1] == "bear"
    assert len(names()) == len(set(names())) == MOST_NAMES


@pytest.mark.parametrize("content", ["", "[]", '{"outputs": 3}', '{"outputs": [3]}', "\x00"])
def test_a_broken_file_is_no_name(content):
    remember("usu")
    first_runs._file().write_text(content, encoding="utf-8")
    assert names() == []
    assert newest_run() is None


def test_no_names_are_no_runs():
    usu = run("usu")
    assert is_named(usu, ["bear", "usu"])
    assert not is_named(usu, [])
    assert not is_named(usu, ["u.u", "us"]), "a name is no pattern"
