"""The end of First LoRA: what its panel says of the run, which file is proposed, kept and sent."""

from types import SimpleNamespace

import pytest

from app.guide.own_run import view_of
from app.page import Context
from app.run_view import Views
from app.widgets.guide_run import OwnRun
from lora_core.events import CheckpointSaved, PictureLoss, RunFailed, RunFinished, ValidationDone, append
from lora_core.guides.first_runs import remember
from lora_core.runs import create_run
from lora_core.settings import RunSettings

REQUEST = SimpleNamespace(cookies={}, headers={})


@pytest.fixture
def trained(tmp_path):
    """A finished run of three epochs."""
    remember("usu")
    made = create_run(RunSettings(save={"output_name": "usu", "output_dir": str(tmp_path)}))
    for epoch in (1, 2, 3):
        path = tmp_path / (f"usu-00000{epoch}.safetensors" if epoch < 3 else "usu.safetensors")
        path.write_bytes(bytes([epoch]))
        append(made.events, CheckpointSaved(path=path, step=epoch, epoch=epoch, final=epoch == 3))
    return made


def finish(run):
    append(run.events, RunFinished(reason="completed", step=3))


def panel(*roots) -> OwnRun:
    return OwnRun(SimpleNamespace(views=Views(), context=Context(roots)), None)


def press(number):
    return SimpleNamespace(_data={"file": number})


@pytest.mark.parametrize("language", ["en", "ja"])
def test_without_a_run_there_is_nothing_to_show(language):
    assert view_of(Views(), language)["run"] == ""


def test_files_are_offered_when_the_run_has_ended(trained):
    view = view_of(Views(), "en")
    assert (view["run"], view["going"], view["files"], view["send"]) == (trained.path.name, True, [], "")
    assert "data-state" in view["html"]
    finish(trained)
    view = view_of(Views(), "en")
    assert not view["going"]
    assert [label.partition(" ")[0] for _, label in view["files"]] == [
        "usu-000001.safetensors",
        "usu-000002.safetensors",
        "usu.safetensors",
    ]
    assert view["proposed"] == 2
    assert view["send"].endswith("usu.safetensors")


def test_a_failure_is_told(trained):
    append(trained.events, RunFailed(message={"en": "No memory <left>", "ja": "メモリ不足"}, detail=""))
    view = view_of(Views(), "en")
    assert not view["going"]
    assert "No memory &lt;left&gt;" in view["html"]


def test_the_border_is_proposed_where_validation_found_one(trained):
    for epoch, loss in enumerate((0.5, 0.4, 0.2, 0.3)):
        pictures = [PictureLoss(name=str(n), held_out=True, loss=loss) for n in range(3)]
        pictures += [PictureLoss(name="a", held_out=False, loss=0.5 - epoch / 10)]
        event = ValidationDone(epoch=epoch, step=epoch, fit=loss, generalisation=loss, pictures=pictures)
        append(trained.events, event)
    finish(trained)
    view = view_of(Views(), "ja")
    assert view["files"][view["proposed"]][1].startswith("usu-000002")
    assert "2" in view["verdict"]


def test_the_chosen_epoch_is_copied_and_then_sent(trained, tmp_path, said):
    finish(trained)
    view = panel().keep(press(0), REQUEST)
    assert (tmp_path / "usu-best.safetensors").read_bytes() == b"\x01"
    assert "usu-best.safetensors" in view["kept"]
    assert view["send"] == str(tmp_path / "usu-best.safetensors")
    panel().keep(press(1), REQUEST)
    assert (tmp_path / "usu-best.safetensors").read_bytes() == b"\x01", "nothing is written over"
    assert (tmp_path / "usu-best-2.safetensors").read_bytes() == b"\x02"


@pytest.mark.parametrize("number", [9, -1, None, "0"])
def test_a_file_that_is_none_is_told(trained, said, tmp_path, number):
    finish(trained)
    before = sorted(tmp_path.glob("*.safetensors"))
    panel().keep(press(number), REQUEST)
    assert "gone" in said[0]
    assert sorted(tmp_path.glob("*.safetensors")) == before


def test_nothing_is_copied_outside_the_folders_of_the_page(trained, said, tmp_path):
    finish(trained)
    panel(tmp_path / "elsewhere").keep(press(0), REQUEST)
    assert "outside" in said[0]
    assert not (tmp_path / "usu-best.safetensors").exists()
