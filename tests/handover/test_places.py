"""Whose folder it is, from whatever folder a person names."""

import pytest

from lora_core.errors import UserError
from lora_core.handover.places import PROGRAMS, place_of
from lora_core.inspect.hosts import HOSTS


def found(folder):
    place = place_of(folder)
    return place.program.name, place.folder


@pytest.mark.parametrize("named", ["", "models", "models/Lora"])
def test_the_program_its_models_and_its_loras_are_one_place(webui, named):
    assert found(webui / named) == ("AUTOMATIC1111", webui / "models/Lora")


def test_forge_is_told_from_automatic1111_though_it_has_its_files(forge):
    assert found(forge) == ("Forge", forge / "models/Lora")


def test_comfyui_is_known_by_its_name_and_models_alone(comfy):
    assert found(comfy) == ("ComfyUI", comfy / "models/loras")
    assert found(comfy / "models/loras/bears") == ("ComfyUI", comfy / "models/loras/bears")


def test_a_program_of_any_name_is_known_by_its_files(tmp_path):
    (tmp_path / "paint" / "custom_nodes").mkdir(parents=True)
    assert found(tmp_path / "paint") == ("ComfyUI", tmp_path / "paint/models/loras")


def test_a_package_with_the_program_inside(comfy, tmp_path):
    assert found(comfy.parent) == ("ComfyUI", comfy / "models/loras")


def test_two_programs_in_a_folder_are_told_by_name(comfy, forge, tmp_path):
    with pytest.raises(UserError, match=r"ComfyUI, f") as error:
        place_of(tmp_path)
    assert error.value.key == "handover.several"


def test_the_spelling_that_is_there_counts(tmp_path):
    (tmp_path / "webui" / "models" / "lora").mkdir(parents=True)
    (tmp_path / "webui" / "webui.py").touch()
    assert place_of(tmp_path / "webui").folder.samefile(tmp_path / "webui/models/lora")


def test_another_folder_of_a_program_is_answered_with_the_right_one(webui):
    (webui / "models" / "Stable-diffusion").mkdir()
    with pytest.raises(UserError) as error:
        place_of(webui / "models" / "Stable-diffusion")
    assert error.value.key == "handover.other_folder"
    assert str(webui / "models" / "Lora") in error.value.message("ja")


@pytest.mark.parametrize("name", ["Lora", "LORAs", "LyCORIS"])
def test_a_folder_of_loras_of_nobody_known_is_shared(tmp_path, name):
    (tmp_path / "Models" / name).mkdir(parents=True)
    place = place_of(tmp_path / "Models" / name)
    assert place.program.cards == ("webui", "civitai")
    assert place.folder == tmp_path / "Models" / name


def test_a_folder_with_loras_in_it_is_one_for_them(tmp_path):
    with pytest.raises(UserError) as error:
        place_of(tmp_path)
    assert error.value.key == "handover.unknown_folder"
    (tmp_path / "a.safetensors").touch()
    assert place_of(tmp_path).folder == tmp_path


def test_what_is_no_folder_is_said(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(UserError) as error:
            place_of(path)
        assert error.value.key == "handover.no_folder"


def test_the_inspector_knows_the_programs_under_the_same_names():
    assert {program.name for program in PROGRAMS} <= {host.name for host in HOSTS}
