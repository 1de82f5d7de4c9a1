"""The dialog that sends a LoRA to a web UI, and the buttons that open it."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest

from app.page import Context
from app.run_view import RunView
from app.ui import build
from app.widgets.handover_dialog import HandoverDialog
from app.widgets.path_picker import PathPicker
from app.widgets.run_status import files_html
from lora_core.events import CheckpointSaved, FileSaved, append
from lora_core.generate.keep import keep
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from tests.app.inspect.samples import EVIL, good
from tests.handover.conftest import picture

JAPANESE = SimpleNamespace(cookies={"kumakobo_lang": "ja"}, headers={})
ENGLISH = SimpleNamespace(cookies={}, headers={})


@pytest.fixture
def open_dialog(tmp_path):
    def build(*roots) -> HandoverDialog:
        with gr.Blocks():
            dialog = HandoverDialog(SimpleNamespace(context=Context(roots), picker=PathPicker(roots)))
            dialog.connect()
        return dialog

    return build


@pytest.fixture
def dialog(open_dialog) -> HandoverDialog:
    return open_dialog()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> gr.Blocks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMAKOBO_HOME", str(tmp_path_factory.mktemp("home")))
        return build(Context())


@pytest.fixture
def webui(tmp_path):
    (tmp_path / "webui" / "models" / "Lora").mkdir(parents=True)
    (tmp_path / "webui" / "webui.py").touch()
    return tmp_path / "webui"


@pytest.fixture
def lora(tmp_path):
    picture(tmp_path / "out" / "sample" / "usu_e000001_00_20261121000000_1.png")
    return good(tmp_path / "out" / "usu.safetensors")


def filled(dialog, lora, folder, name="usu", strength=0.8, shown=""):
    named = {dialog.lora: str(lora), dialog.folder: str(folder), dialog.name: name}
    return named | {dialog.strength: strength, dialog.shown: str(shown)}


def test_it_opens_with_the_files_name_words_and_picture(dialog, lora):
    shown = dialog.named(f'"{lora}"', ENGLISH)
    assert shown[dialog.dialog.box]["visible"] is True
    assert (shown[dialog.name], shown[dialog.lora], shown[dialog.folder]) == ("usu", str(lora), "")
    assert "Trigger words: usu bear" in shown[dialog.about]
    assert "<img" in shown[dialog.about]
    assert set(shown) <= dialog.outputs


def test_without_samples_it_shows_the_picture_inside_the_file(dialog, tmp_path):
    shown = dialog.named(str(good(tmp_path / "bare.safetensors")), ENGLISH)
    assert 'src="data:image/png;base64,' in shown[dialog.about]


def test_it_sends_says_the_prompt_and_remembers_the_folder(dialog, lora, webui):
    done = dialog.send(filled(dialog, lora, webui), JAPANESE)
    assert "&lt;lora:usu:0.8&gt; usu bear" in done[dialog.dialog.message]
    card = json.loads((webui / "models/Lora/usu.json").read_text(encoding="utf-8"))
    assert (card["activation text"], card["preferred weight"]) == ("usu bear", 0.8)
    assert (webui / "models/Lora/usu.png").is_file()
    assert dialog.named(str(lora), JAPANESE)[dialog.folder] == str(webui)


def test_another_sample_is_chosen_by_a_click(dialog, lora, webui):
    other = picture(lora.parent / "sample" / "usu_e000001_01_20261121000000_2.png", "blue")
    about = dialog.named(str(lora), ENGLISH)[dialog.about]
    assert about.count("data-picture=") == 2
    assert dialog.choose(SimpleNamespace(_data={"picture": str(other)})) == str(other)
    values = filled(dialog, lora, webui, shown=other)
    pressed = dialog.look(values, JAPANESE)[dialog.about].partition('aria-pressed="true"')
    assert f'data-picture="{other}"' in pressed[0].rpartition("<button")[2]
    dialog.send(values, ENGLISH)
    assert (webui / "models/Lora/usu.png").read_bytes() == other.read_bytes()


@pytest.mark.parametrize("content", [b"no picture", None], ids=["broken", "gone"])
def test_what_is_no_picture_is_said_and_nothing_is_sent(dialog, lora, webui, tmp_path, content):
    broken = tmp_path / "絵.png"
    if content:
        broken.write_bytes(content)
    values = filled(dialog, lora, webui, shown=broken)
    assert "絵.png" in dialog.look(values, JAPANESE)[dialog.about]
    assert "絵.png" in dialog.send(values, JAPANESE)[dialog.dialog.message]
    assert list((webui / "models/Lora").iterdir()) == []


def test_a_picture_outside_the_folders_of_the_page_is_refused(open_dialog, lora, tmp_path):
    dialog, secret = open_dialog(lora.parent), picture(tmp_path / "secret.png")
    shown = dialog.look(filled(dialog, lora, lora.parent, shown=secret), ENGLISH)[dialog.about]
    assert "<img" not in shown
    assert 'role="alert"' in shown


def test_the_strength_of_the_grid_is_proposed(dialog, lora):
    create_run(RunSettings(save={"output_dir": str(lora.parent), "output_name": "usu"}))
    best = keep(lora, "usu-mine", strength=0.6)
    shown = dialog.named(str(best), ENGLISH)
    assert shown[dialog.strength] == 0.6
    assert "Strength 0.6" in shown[dialog.about]


def test_it_asks_before_it_replaces(dialog, lora, webui):
    mine = webui / "models/Lora/usu.safetensors"
    mine.write_bytes(b"mine")
    asked = dialog.send(filled(dialog, lora, webui), ENGLISH)
    assert mine.read_bytes() == b"mine"
    assert asked[dialog.replace]["visible"] is True
    assert "usu-2 is free" in asked[dialog.dialog.message]
    done = dialog.send_over(filled(dialog, lora, webui), ENGLISH)
    assert done[dialog.replace]["visible"] is False
    assert mine.read_bytes() == lora.read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folder": ""}, "Choose the folder"),
        ({"strength": None}, "The strength must be"),
        ({"name": "a/b"}, "plain file name"),
        ({"lora": ""}, "No LoRA file"),
        ({"shown": "/nowhere/at all.png"}, "/nowhere/at all.png"),
    ],
)
def test_what_is_missing_is_said(dialog, lora, webui, change, said):
    answer = dialog.send(filled(dialog, **{"lora": lora, "folder": webui} | change), ENGLISH)
    assert said in answer[dialog.dialog.message]
    assert answer[dialog.replace]["visible"] is False
    assert list((webui / "models/Lora").iterdir()) == []


def test_a_file_that_went_away_is_said_when_it_opens(dialog, tmp_path):
    event = SimpleNamespace(_data={"handover": str(tmp_path / "gone.safetensors")})
    shown = dialog.clicked(event, ENGLISH)
    assert "gone.safetensors" in shown[dialog.dialog.message]
    assert shown[dialog.lora] == ""
    assert dialog.clicked(SimpleNamespace(_data=7), ENGLISH)[dialog.lora] == ""


def test_it_stays_in_the_folders_the_page_may_use(open_dialog, lora, webui, tmp_path):
    dialog = open_dialog(lora.parent)
    refused = dialog.send(filled(dialog, lora, webui), ENGLISH)
    assert 'role="alert"' in refused[dialog.dialog.message]
    (lora.parent / "ComfyUI").symlink_to(webui)
    refused = dialog.send(filled(dialog, lora, lora.parent), ENGLISH)
    assert 'role="alert"' in refused[dialog.dialog.message]
    assert list((webui / "models/Lora").iterdir()) == []


def test_a_file_outside_these_folders_is_not_opened(open_dialog, lora, webui):
    dialog = open_dialog(webui)
    assert dialog.named(str(lora), ENGLISH)[dialog.lora] == ""


def test_a_hostile_file_is_shown_as_text(dialog, tmp_path):
    evil = good(tmp_path / "evil.safetensors", **{"modelspec.trigger_phrase": EVIL})
    assert "<script" not in dialog.named(str(evil), ENGLISH)[dialog.about]


def test_the_saved_loras_of_a_run_have_the_button_and_nothing_else_has(lora, tmp_path):
    run = create_run(RunSettings())
    other = tmp_path / "grid.png"
    picture(other)
    append(run.events, CheckpointSaved(path=lora, step=1, epoch=1))
    append(run.events, CheckpointSaved(path=tmp_path / "gone.safetensors", step=2, epoch=2))
    append(run.events, FileSaved(path=other, kind="picture"))
    html = files_html(RunView(run).update(), "en")
    assert html.count("data-handover=") == 1
    assert f'data-handover="{lora}"' in html


@pytest.mark.parametrize(("elem_id", "event"), [("monitor_files", "select"), ("inspect_send", "click")])
def test_the_monitor_and_the_inspect_tab_open_the_one_dialog(page, elem_id, event):
    ids = {block.elem_id: number for number, block in page.blocks.items() if block.elem_id}
    opened = [fn for fn in page.fns.values() if (ids[elem_id], event) in fn.targets]
    assert any(ids["handover_dialog"] in {block._id for block in fn.outputs} for fn in opened)
