"""Names of saved files, what counts as in the way, and which saves are kept."""

from pathlib import Path

import pytest

from lora_core.settings import SaveSettings
from lora_core.train.files import (
    Retention,
    average_file,
    epoch_file,
    files_in_the_way,
    final_file,
    free_name,
    state_folder,
    step_file,
)


@pytest.fixture
def save(tmp_path) -> SaveSettings:
    return SaveSettings(output_dir=tmp_path, output_name="usu")


def test_names_are_those_of_the_field(save):
    names = [final_file(save).name, epoch_file(save, 2).name, step_file(save, 100).name]
    assert names == ["usu.safetensors", "usu-000002.safetensors", "usu-step00000100.safetensors"]
    assert state_folder(epoch_file(save, 2)).name == "usu-000002-state"


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("usu.safetensors", True),
        ("usu-000003.safetensors", True),
        ("usu-step00000007.safetensors", True),
        ("usu-ema.safetensors", True),
        ("usu-000003-ema.safetensors", True),
        ("usu.json", True),
        ("usu2.safetensors", False),
        ("usu-v2.safetensors", False),
        ("usu-000003.txt", False),
    ],
)
def test_only_files_the_run_would_write_are_in_the_way(save, tmp_path, name, blocks):
    (tmp_path / name).touch()
    assert files_in_the_way(save) == ([tmp_path / name] if blocks else [])
    assert free_name(save) == ("usu-v2" if blocks else "usu")


def test_the_last_n_saves_are_kept_with_their_states(tmp_path):
    kept = Retention(2)
    paths = [tmp_path / f"usu-{i:06d}.safetensors" for i in range(4)]
    for path in paths:
        path.touch()
        state_folder(path).mkdir()
        kept.add(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        name for p in paths[2:] for name in (p.name, state_folder(p).name)
    )


def test_without_a_limit_nothing_is_removed(tmp_path):
    path = Path(tmp_path / "a.safetensors")
    path.touch()
    assert Retention(None).add(path) == []
    assert path.exists()


def test_an_average_goes_with_its_save(tmp_path):
    kept = Retention(1)
    for i in range(2):
        path = tmp_path / f"usu-{i:06d}.safetensors"
        path.touch()
        average_file(path).touch()
        kept.add(path)
    assert {path.name for path in tmp_path.iterdir()} == {"usu-000001.safetensors", "usu-000001-ema.safetensors"}
