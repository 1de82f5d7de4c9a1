"""A run as the app starts it: events in the run folder, the console's lines, TensorBoard, the exit code."""

import io

import pytest
from PIL import Image

from lora_core.events import RunFinished, StepDone
from lora_core.runs import RunFolder, create_run
from lora_core.settings import RunSettings
from lora_core.train.console import Console
from lora_core.train.runner import EXIT_FAILED, EXIT_OK, run_training
from tests.models import tiny_sd_folder


@pytest.fixture
def settings(tmp_path) -> RunSettings:
    images = tmp_path / "images" / "3_usu bear"
    images.mkdir(parents=True)
    Image.new("RGB", (64, 64), "teal").save(images / "0.png")
    return RunSettings(
        model={"base": str(tiny_sd_folder(tmp_path / "tiny"))},
        dataset={"train_dir": images.parent, "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 2, "alpha": 2},
        optimizer={"name": "AdamW"},
        train={"epochs": 1, "mixed_precision": "no"},
        save={"output_dir": tmp_path / "out", "output_name": "usu", "tensorboard": True},
    )


@pytest.fixture
def run(settings, tmp_path) -> RunFolder:
    return create_run(settings, tmp_path / "runs")


@pytest.mark.parametrize(("language", "word"), [("en", "Finished after 3 steps"), ("ja", "3 ステップで学習が完了")])
def test_events_console_and_exit_code(settings, run, language, word):
    out = io.StringIO()
    assert run_training(settings, run, Console(language, out)) == EXIT_OK
    events = run.read_events()
    assert [e.step for e in events if isinstance(e, StepDone)] == [1, 2, 3]
    assert isinstance(events[-1], RunFinished)
    assert word in out.getvalue()
    assert "usu.safetensors" in out.getvalue()
    assert "3_usu bear" in out.getvalue()  # what it trains, before the first step


def test_a_failed_run_says_so_on_the_console_and_by_its_exit_code(settings, run):
    settings.model.base = "nowhere.safetensors"
    out = io.StringIO()
    assert run_training(settings, run, Console("ja", out)) == EXIT_FAILED
    assert "nowhere.safetensors" in out.getvalue()
    assert "Traceback" not in out.getvalue()


def test_tensorboard_has_the_losses_of_the_events(settings, run):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run_training(settings, run)
    (folder,) = (settings.save.output_dir / "log").iterdir()
    log = reader.EventAccumulator(str(folder))
    log.Reload()
    written = [(scalar.step, scalar.value) for scalar in log.Scalars("loss/current")]
    seen = [(e.step, e.loss) for e in run.read_events() if isinstance(e, StepDone)]
    assert [step for step, _ in written] == [step for step, _ in seen]
    assert [value for _, value in written] == pytest.approx([loss for _, loss in seen], rel=1e-5)
    assert {"lr/unet", "lr/text_encoder"} <= set(log.Tags()["scalars"])
