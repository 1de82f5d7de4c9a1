"""A model kept from job to job draws, to the last bit, what one that was just read draws."""

import gc
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_core.events import FileSaved, RunFailed, RunFinished, StageChanged, Stop
from lora_core.generate.request import model_of
from lora_core.generate.shelf import Shelf
from lora_core.generate.studio import Studio
from lora_core.runs import create_run
from lora_core.settings.generate import GenerateSettings
from lora_core.settings.tools import TOOL_SETTINGS
from lora_core.tools import events_of, run_job
from tests.generate.test_generate import make_lora, make_studio
from tests.merge import makers
from tests.models import tiny_sd_folder

SMALL = {"width": 64, "height": 64, "steps": 1, "seed": 3, "guidance": 4.0}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with two models, LoRAs of several kinds for both, one that does not fit, and training pictures."""
    place = tmp_path_factory.mktemp("くま place")
    studio, _ = make_studio("sd1", place)
    tiny_sd_folder(place / "other", seed=5)
    layers = {name: tuple(one.weight.shape) for name, one in studio.family.named_layers(studio.components).items()}
    chosen = {name: shape for name, shape in layers.items() if name.endswith(("attn1_to_q", "attn2_to_v"))}
    dora = makers.lora_state(chosen, "dora lora", rank=2, alpha=1.0, family="sd1")
    makers.save_arrays(dora, makers.METADATA["sd1"], place / "dora.safetensors", "float")
    makers.write_lora(place / "large.safetensors", "sd1", size="full")
    (place / "img" / "1_bear").mkdir(parents=True)
    Image.new("RGB", (64, 64), (90, 90, 200)).save(place / "img" / "1_bear" / "0.png")
    return place


def job(place: Path, kind: str = "generate", **changes):
    prompts = {"base": str(place / "model"), "prompts": ["a bear"], "folders": [place]}
    return TOOL_SETTINGS.validate_python({"job": kind, **SMALL, **prompts, **changes})


def pictures(settings, root: Path, shelf: Shelf | None = None) -> list[np.ndarray]:
    """What a job draws, as the app runs it: in a folder of its own."""
    run = create_run(settings, root)
    assert run_job(settings, run, shelf=shelf) == 0, run.read_events()[-1]
    saved = [event.path for event in run.read_events() if isinstance(event, FileSaved)]
    return [np.asarray(Image.open(path).convert("RGB")) for path in saved]


def jobs_in_turn(place: Path, out: Path) -> list:
    """Jobs of every kind that draws, that wear and take off LoRAs, leave encoders unread, or use another model."""
    common = {"width": 64, "height": 64, "steps": 1}
    merged = {"loras": [{"path": place / "a.safetensors"}]}
    regularisation = {
        "model": {"family": "sd1", "base": str(place / "model")},
        "dataset": {"train_dir": place / "img", "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        **{"prompt": "bear", "count": 1, "steps": 1, "device": "cpu"},
    }
    return [
        job(place),
        job(place, prompts=["a bear <lora:a:0.8>", "a bear <lora:a:1:lbw=OUTALL>", "a bear <lora:dora:1>"]),
        job(place, "proof", lora=place / "a.safetensors", timesteps=1),
        job(place),
        TOOL_SETTINGS.validate_python({"job": "regularisation", "folder": out, **regularisation}),
        job(place, prompts=["a bear <lora:a:1>"]),
        TOOL_SETTINGS.validate_python(
            {"job": "preview", "merge": merged, "base": str(place / "model"), "prompts": ["a"] * 3, **common}
        ),
        job(place, "grid", rows={"kind": "lora", "values": [str(place / "dora.safetensors")]}, columns=TWO),
        job(place, base=str(place / "other"), prompts=["a bear <lora:a:1>"]),
        job(place, prompts=["a bear <lora:dora:1> <lora:a:0.5>"]),
        job(place),
    ]


TWO = {"kind": "strength", "values": ["0", "1"]}


def test_jobs_in_turn_draw_what_each_draws_by_itself(place, tmp_path):
    shelf = Shelf()
    kept = [pictures(one, tmp_path / "kept", shelf) for one in jobs_in_turn(place, tmp_path / "reg")]
    fresh = [pictures(one, tmp_path / "fresh") for one in jobs_in_turn(place, tmp_path / "reg again")]
    assert [len(one) for one in kept] == [len(one) for one in fresh]
    for number, (one, other) in enumerate(zip(kept, fresh, strict=True)):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), number
    assert np.array_equal(kept[0][0], kept[-1][0])
    assert not np.array_equal(kept[0][0], kept[1][0]), "the LoRA does not show"
    assert not np.array_equal(kept[5][0], kept[8][0]), "the other model does not show"


def borrowed(shelf: Shelf, model) -> Studio:
    with shelf.studio(model, torch.device("cpu")) as studio:
        return studio


def test_a_model_is_read_again_when_it_is_another_one(place, tmp_path):
    told: list[str | None] = []
    shelf = Shelf(told.append)
    shutil.copytree(place / "model", tmp_path / "model")
    model = model_of(GenerateSettings(base=str(tmp_path / "model")))
    first = borrowed(shelf, model)
    assert borrowed(shelf, model) is first
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    os.utime(weights, ns=(1, 1))
    second = borrowed(shelf, model)
    assert second is not first
    other = model_of(GenerateSettings(base=str(tmp_path / "model"), clip_skip=2))
    assert borrowed(shelf, other) is not second
    shelf.drop()
    assert told == ["model", None, "model", None, "model", None]


def test_another_file_under_the_same_name_is_another_model(place, tmp_path):
    """What is drawn after the files were replaced is what the new ones draw."""
    shelf = Shelf()
    shutil.copytree(place / "model", tmp_path / "model")
    settings = job(place, base=str(tmp_path / "model"))
    before = pictures(settings, tmp_path / "runs", shelf)
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(place / "other", tmp_path / "model")
    after = pictures(settings, tmp_path / "runs", shelf)
    assert np.array_equal(after[0], pictures(settings, tmp_path / "runs")[0])
    assert not np.array_equal(before[0], after[0])


def test_another_lora_under_the_same_name_is_another_lora(place, tmp_path):
    studio, path = make_studio("sd1", tmp_path)
    settings = job(tmp_path, prompts=["a bear <lora:a:1>"])
    shelf = Shelf()
    before = pictures(settings, tmp_path / "runs", shelf)
    make_lora(studio.components, studio.family, path, seed=2)
    after = pictures(settings, tmp_path / "runs", shelf)
    assert np.array_equal(after[0], pictures(settings, tmp_path / "runs")[0])
    assert not np.array_equal(before[0], after[0])


def test_the_old_model_is_gone_before_the_new_one_is_read(place, monkeypatch):
    shelf = Shelf()
    old = weakref.ref(borrowed(shelf, model_of(GenerateSettings(base=str(place / "model")))).components.denoiser)
    gc.collect()
    assert old() is not None
    seen = []
    begin = Studio.__init__
    monkeypatch.setattr(Studio, "__init__", lambda self, *given: (seen.append(old()), begin(self, *given))[1])
    borrowed(shelf, model_of(GenerateSettings(base=str(place / "other"))))
    assert seen == [None]


def last_event(settings, root: Path, shelf: Shelf):
    run = create_run(settings, root)
    run_job(settings, run, shelf=shelf)
    return run.read_events()[-1]


def test_who_fails_with_the_model_in_hand_loses_it(place, tmp_path, monkeypatch):
    told: list[str | None] = []
    shelf = Shelf(told.append)
    good = pictures(job(place), tmp_path, shelf)
    failed = last_event(job(place, prompts=["a bear <lora:large:1>"]), tmp_path, shelf)
    assert isinstance(failed, RunFailed)
    assert told == ["model", None]
    assert not shelf.is_broken
    assert np.array_equal(good[0], pictures(job(place), tmp_path, shelf)[0])

    def full(self, *given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    with monkeypatch.context() as patch:
        patch.setattr(Studio, "draw", full)
        failed = last_event(job(place), tmp_path, shelf)
    assert "memory" in failed.message["en"]
    assert told[-1] is None
    assert shelf.is_broken


def test_who_fails_before_the_model_is_touched_leaves_it(place, tmp_path):
    told: list[str | None] = []
    shelf = Shelf(told.append)
    pictures(job(place), tmp_path, shelf)
    assert isinstance(last_event(job(place, prompts=["a <lora:gone:1>"]), tmp_path, shelf), RunFailed)
    assert told == ["model"]


def test_a_stop_in_the_middle_of_a_picture_leaves_the_base_model(place, tmp_path):
    told: list[str | None] = []
    shelf = Shelf(told.append)
    good = pictures(job(place), tmp_path, shelf)
    settings = job(place, prompts=["a bear <lora:a:1>"], steps=1000)
    run = create_run(settings, tmp_path)

    def stop_it(event) -> None:
        if isinstance(event, StageChanged) and event.stage == "drawing":
            run.send(Stop(save=False))

    run_job(settings, run, [stop_it], shelf)
    last = run.read_events()[-1]
    assert isinstance(last, RunFinished)
    assert last.reason == "stopped"
    assert not list(run.path.glob("*.png"))
    assert told == ["model"]
    assert np.array_equal(good[0], pictures(job(place), tmp_path, shelf)[0])


def test_a_stop_while_a_picture_is_drawn_is_asked_for_at_every_step(place):
    """Asked after the model was read: twice between events, then once a step."""
    asked = []
    settings = job(place, steps=5, output=place / "out")
    events = list(events_of(settings, None, lambda: bool(asked.append(1))))
    between = sum(not isinstance(event, FileSaved) for event in events) - 1
    assert len(asked) == between - 1 + 5
