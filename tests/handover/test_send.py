"""A LoRA handed over: what lies in the folder afterwards, and that nothing of anybody's is lost on the way."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.generate.keep import keep
from lora_core.handover import send
from lora_core.handover.send import Wish, hand_over, told
from lora_core.i18n import LANGUAGES
from lora_core.io.arrays import save_arrays
from lora_core.io.hashes import sha256
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from tests.handover.conftest import picture


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(wish: Wish) -> str:
    with pytest.raises(UserError) as error:
        hand_over(wish)
    assert all(error.value.message(language) for language in LANGUAGES)
    return error.value.key


def test_automatic1111_gets_file_picture_and_card(lora, webui):
    sample = picture(lora.parent / "sample" / "うす_e000001_00_20261121000000_1.png")
    sent = hand_over(Wish(lora, webui, strength=0.8, negative=" hat "))
    folder = webui / "models/Lora"
    assert sorted(content(folder)) == ["うす.json", "うす.png", "うす.safetensors"]
    assert sent.lora.read_bytes() == lora.read_bytes()
    assert (folder / "うす.png").read_bytes() == sample.read_bytes()
    assert sent.prompt == "<lora:うす:0.8> usu bear"
    assert json.loads((folder / "うす.json").read_text(encoding="utf-8")) == {
        "description": "",
        "sd version": "SD1",
        "activation text": "usu bear",
        "preferred weight": 0.8,
        "negative text": "hat",
        "notes": json.loads((folder / "うす.json").read_text(encoding="utf-8"))["notes"],
    }


def test_the_strength_of_the_grid_is_that_of_card_and_prompt(lora, webui):
    create_run(RunSettings(save={"output_dir": str(lora.parent), "output_name": lora.stem}))
    best = keep(lora, "best", strength=0.7)
    assert hand_over(Wish(best, webui)).prompt == "<lora:best:0.7> usu bear"
    assert hand_over(Wish(best, webui, strength=1.0, replace=True)).prompt == "<lora:best:1> usu bear"
    card = json.loads((webui / "models/Lora/best.json").read_text(encoding="utf-8"))
    assert card["preferred weight"] == 1.0


def test_comfyui_gets_what_its_lora_manager_reads(lora, comfy):
    given = picture(comfy.parent / "best.jpg")
    sent = hand_over(Wish(lora, comfy / "models/loras/bears", name="usu", preview=given))
    folder = comfy / "models/loras/bears"
    assert sorted(content(folder)) == ["usu.civitai.info", "usu.png", "usu.safetensors"]
    info = json.loads((folder / "usu.civitai.info").read_text(encoding="utf-8"))
    file = next(file for file in info["files"] if file["primary"])
    assert file["hashes"]["SHA256"].lower() == sha256(sent.lora)
    assert file["sizeKB"] * 1024 == sent.lora.stat().st_size
    assert (info["trainedWords"], info["baseModel"], info["model"]["name"]) == (["usu bear"], "SD 1.5", "usu")
    assert not info["id"]
    assert not info["modelId"]


def test_a_shared_folder_gets_both_cards(lora, tmp_path):
    (tmp_path / "Lora").mkdir()
    hand_over(Wish(lora, tmp_path / "Lora"))
    assert sorted(content(tmp_path / "Lora")) == ["うす.civitai.info", "うす.json", "うす.safetensors"]


@pytest.mark.parametrize(("family", "version"), [("sd2", "SD2"), ("sdxl", "SDXL"), ("flux", "Flux")])
def test_the_version_is_the_files(make_lora, tmp_path, forge, family, version):
    sent = hand_over(Wish(make_lora(tmp_path / "a.safetensors", family), forge))
    assert json.loads(sent.lora.with_suffix(".json").read_text(encoding="utf-8"))["sd version"] == version
    assert sent.partly is None


def test_a_program_that_can_not_read_the_file_is_named(make_lora, tmp_path, webui):
    sent = hand_over(Wish(make_lora(tmp_path / "a.safetensors", "flux"), webui))
    assert sent.partly.loaded == 0
    assert any("AUTOMATIC1111" in line for line in told(sent)[1:])


# ---- nothing is lost -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["うす.safetensors", "うす.json", "うす.png"])
def test_what_is_there_stays_until_it_may_be_replaced(lora, webui, there):
    picture(lora.parent / "sample" / "うす_e000001_00_20261121000000_1.png")
    folder = webui / "models/Lora"
    (folder / there).write_bytes(b"mine")
    (folder / "うす-2.txt").touch()
    before = content(webui)
    with pytest.raises(UserError, match=r"うす-3 is free") as error:
        hand_over(Wish(lora, webui))
    assert (error.value.key, error.value.values["names"]) == ("handover.exists", there)
    assert content(webui) == before
    sent = hand_over(Wish(lora, webui, replace=True))
    assert b"mine" not in content(folder).values()
    assert sent.lora.read_bytes() == lora.read_bytes()
    assert hand_over(Wish(lora, webui, name="うす-3")).lora.is_file()


def test_what_a_person_wrote_on_the_card_stays(lora, webui):
    card = webui / "models/Lora" / "うす.json"
    own = {"description": "my bear", "notes": "with 0.7", "negative text": "cat", "preferred weight": 0.7, "own": [1]}
    card.write_text(json.dumps(own), encoding="utf-8")
    hand_over(Wish(lora, webui, replace=True, strength=0.9))
    now = json.loads(card.read_text(encoding="utf-8"))
    assert now == own | {"preferred weight": 0.9, "activation text": "usu bear", "sd version": "SD1"}


@pytest.mark.parametrize("other", ['{"version": 2, "notes": "x"}', "[1]", "{", "[" * 100_000])
def test_another_file_of_the_cards_name_gives_nothing_to_it(lora, webui, other):
    card = webui / "models/Lora" / "うす.json"
    card.write_text(other, encoding="utf-8")
    hand_over(Wish(lora, webui, replace=True))
    assert json.loads(card.read_text(encoding="utf-8")).keys() >= {"activation text"}
    assert "version" not in json.loads(card.read_text(encoding="utf-8"))


def test_a_file_in_the_right_place_is_not_copied_onto_itself(lora, webui):
    own = Path(shutil.copy(lora, webui / "models/Lora"))
    stat = own.stat()
    sent = hand_over(Wish(own, webui))
    assert sorted(path.name for path in sent.files) == ["うす.json"]
    assert (own.stat().st_ino, own.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def test_a_copy_that_differs_is_found_and_nothing_is_left(lora, webui, monkeypatch):
    def damaging(source, target):
        data = bytearray(Path(source).read_bytes())
        data[-1] ^= 1
        Path(target).write_bytes(data)

    monkeypatch.setattr(send.shutil, "copyfile", damaging)
    before = content(webui)
    assert refused(Wish(lora, webui)) == "handover.damaged"
    assert content(webui) == before


def test_a_folder_that_can_not_be_written_is_said(lora, webui, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(send.shutil, "copyfile", full)
    before = content(webui)
    assert refused(Wish(lora, webui)) == "file.disk_full"
    assert content(webui) == before


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"strength": 0.0}, "handover.strength"),
        ({"strength": math.nan}, "handover.strength"),
        ({"strength": 11.0}, "handover.strength"),
        ({"name": "../usu"}, "settings.file_name"),
        ({"name": "a:b"}, "settings.file_name"),
        ({"name": "a" * 200}, "handover.long_name"),
        ({"preview": Path("nothing.png")}, "handover.bad_picture"),
        ({"lora": Path("nothing.safetensors")}, "model.missing"),
    ],
)
def test_what_can_not_be_used_is_said_before_anything_is_written(lora, webui, change, key):
    before = content(webui)
    assert refused(dataclasses.replace(Wish(lora, webui), **change)) == key
    assert content(webui) == before


def test_what_is_no_lora_is_said(tmp_path, webui):
    save_arrays({"x": np.zeros(3, np.float32)}, {}, tmp_path / "x.safetensors", "fp16")
    assert refused(Wish(tmp_path / "x.safetensors", webui)) == "lora.not_a_lora"


def test_an_ending_in_the_name_is_not_doubled(lora, webui):
    assert hand_over(Wish(lora, webui, name="usu.safetensors")).lora.name == "usu.safetensors"
    assert hand_over(Wish(lora, webui, name="usu v1.5")).lora.name == "usu v1.5.safetensors"
