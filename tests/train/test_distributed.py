"""Several processes on the CPU: what they compute is what one process with a larger batch computes.

Most tests fork this process, which costs no second import of torch; the last ones go through the command line.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_core.events import RunFailed, RunFinished, SampleSaved, SaveNow, StepDone, Stop, ValidationDone
from lora_core.io.headers import read_header
from lora_core.launching import PROJECT, SUPERVISOR, Place, free_port, read_notes
from lora_core.runs import RunFolder, create_run, list_runs
from lora_core.settings import RunSettings
from lora_core.settings.files import save_settings, with_values
from lora_core.train.distributed import Team
from lora_core.train.runner import run_training
from tests.models import tiny_sd_folder

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks, and ends processes by signals")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> RunSettings:
    """Seven pictures in two sizes, five and two: both give a short last batch."""
    root = tmp_path_factory.mktemp("several")
    images = root / "images" / "1_usu bear"
    images.mkdir(parents=True)
    for n in range(7):
        noise = np.random.default_rng(n).normal(128, 30 + 20 * n, (64, 96) if n < 5 else (96, 64))
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).convert("RGB").save(images / f"{n}.png")
        (images / f"{n}.txt").write_text(f"a bear, number {n}", encoding="utf-8")
    return RunSettings(
        model={"base": str(tiny_sd_folder(root / "tiny"))},
        dataset={"train_dir": images.parent, "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 2, "alpha": 2},
        # Adam divides a gradient by its own size. With its usual eps it would blow up what is nothing but rounding.
        optimizer={"name": "AdamW", "args": "eps=1e-4"},
        train={"epochs": 2, "mixed_precision": "no", "learning_rate": 1e-3, "device": "cpu"},
        save={"output_dir": root / "out", "output_name": "usu", "save_precision": "float", "overwrite": True},
    )


def rank_of(rank: int, size: int, port: int, job: Callable[[], object]) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size))
    os.environ[SUPERVISOR] = str(os.getppid())
    torch.set_num_threads(1)
    code = job()
    os._exit(int(code or 0))


def together(size: int, job: Callable[[], object]) -> list[int]:
    """Run ``job`` in so many processes that see each other; gives their exit codes."""
    fork, port = multiprocessing.get_context("fork"), free_port()
    ranks = [fork.Process(target=rank_of, args=(rank, size, port, job)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        if rank.is_alive():
            rank.kill()
            rank.join()
    return [rank.exitcode for rank in ranks]


def trained(base: RunSettings, tmp_path, name: str, *, processes: int = 1, **changes) -> tuple[RunFolder, dict]:
    """A run with so many processes: its folder and the LoRA."""
    out = tmp_path / name
    settings = with_values(base, {"save.output_dir": out, "launch.processes": processes} | changes)
    run = create_run(settings, tmp_path / "runs")
    codes = together(processes, lambda: run_training(settings, run)) if processes > 1 else [run_training(settings, run)]
    assert codes == [0] * processes, [note.message["en"] + note.detail for note in read_notes(run)]
    return run, load_file(out / "usu.safetensors")


def losses(run: RunFolder) -> list[float]:
    return [event.loss for event in run.read_events() if isinstance(event, StepDone)]


def assert_same(one, other, rel: float = 1e-5) -> None:
    """The same steps and losses, and the same LoRA, up to the order of additions."""
    assert losses(other[0]) == pytest.approx(losses(one[0]), rel=rel)
    assert one[1].keys() == other[1].keys()
    for name, tensor in one[1].items():
        assert torch.allclose(other[1][name], tensor, atol=1e-5), name


def dotted(**changes) -> dict:
    return {name.replace("__", "."): value for name, value in changes.items()}


BATCH_WIDE = dotted(
    noise__noise_offset_type="both",
    noise__multires_noise_iterations=3,
    noise__noise_offset=0.1,
    noise__ip_noise_gamma=0.1,
    loss__loss_type="huber",
    loss__prior_preservation=0.5,
    train__ema_decay=0.9,
)
"""Noise that is measured over the batch, draws for the whole of it, a second prediction, an average of the weights."""


@pytest.mark.parametrize(
    ("processes", "each", "changes"),
    [
        (2, 2, {}),
        (2, 1, dotted(train__gradient_accumulation_steps=3, noise__noise_offset=0.1)),
        (2, 2, dotted(dataset__cache_latents="off", dataset__random_crop=True, train__train_text_encoder=False)),
        (2, 1, BATCH_WIDE),
        (3, 1, dotted(dataset__cache_latents="disk", dataset__flip_aug=True, loss__min_snr_gamma=5.0)),
    ],
    ids=["buckets", "accumulation", "no cache", "noise of a whole batch", "three, disk cache"],
)
def test_equal_to_one_process_with_a_larger_batch(base, tmp_path, processes, each, changes):
    cache = {"dataset.cache_dir": tmp_path / "cache"}
    one = trained(base, tmp_path, "one", **cache, **changes, **{"train.train_batch_size": processes * each})
    cache = {"dataset.cache_dir": tmp_path / "another cache"}
    several = trained(
        base, tmp_path, "several", processes=processes, **cache, **changes, **{"train.train_batch_size": each}
    )
    assert_same(one, several)


SLIDER = dotted(
    dataset__train_dir=None,
    slider__target="bear",
    slider__more="a bear, number 1",
    slider__less="a bear, number 2",
    slider__keep="old",
    train__train_text_encoder=False,
    sample__steps=1,
)
"""Every process draws the same pictures, and asks about its own in their own words."""


def test_a_slider_is_equal_to_one_process_with_a_larger_batch(base, tmp_path):
    """Its loss is the square of small differences between large answers, in which rounding shows sooner."""
    one = trained(base, tmp_path, "one", **SLIDER, **{"train.train_batch_size": 4})
    several = trained(base, tmp_path, "several", processes=2, **SLIDER, **{"train.train_batch_size": 2})
    assert_same(one, several, rel=1e-3)


@pytest.mark.parametrize("rate", [1e-3, 1e-12], ids=["to the end", "stopped early"])
def test_over_fitting_is_measured_by_one_and_obeyed_by_all(base, tmp_path, rate: float):
    """So low a rate teaches nothing, which ends the run; so high a one that it spoils something would tell of chaos."""
    validation = {"every_n_epochs": 1, "split": 0.3, "timesteps": 2, "patience": 1, "keep_best": True}
    own = {f"validation.{name}": value for name, value in validation.items()}
    own |= {"train.epochs": 4, "train.learning_rate": rate}
    one = trained(base, tmp_path, "one", **own, **{"train.train_batch_size": 2})
    several = trained(base, tmp_path, "several", processes=2, **own, **{"train.train_batch_size": 1})
    assert losses(several[0]) == pytest.approx(losses(one[0]), rel=1e-5)
    curves = [[e for e in run.read_events() if isinstance(e, ValidationDone)] for run, _ in (one, several)]
    assert [e.generalisation for e in curves[1]] == pytest.approx([e.generalisation for e in curves[0]], rel=1e-5)
    assert (len(curves[0]) < 5) == (rate == 1e-12)


def test_resume_with_another_number_of_processes_is_exact(base, tmp_path):
    whole = trained(base, tmp_path, "whole", **dotted(train__train_batch_size=2))
    begun = dotted(train__train_batch_size=1, save__save_state=True, save__save_every_n_steps=3)
    trained(base, tmp_path, "begun", processes=2, **begun)
    state = tmp_path / "begun" / "usu-step00000003-state"
    rest = trained(base, tmp_path, "rest", **dotted(train__train_batch_size=2, save__resume=state))
    assert losses(rest[0]) == pytest.approx(losses(whole[0])[3:], rel=1e-5)
    for name, tensor in whole[1].items():
        assert torch.allclose(rest[1][name], tensor, atol=1e-5), name


def test_resume_with_other_batches_is_refused_in_words(base, tmp_path):
    state = dotted(train__train_batch_size=2, save__save_state=True, save__save_every_n_steps=2)
    trained(base, tmp_path, "begun", **state)
    folder = tmp_path / "begun" / "usu-step00000002-state"
    changes = dotted(train__train_batch_size=2, launch__processes=2, save__resume=folder, save__output_dir=tmp_path)
    settings = with_values(base, changes)
    run = create_run(settings, tmp_path / "runs")
    assert run_training(settings, run) == 1
    last = run.read_events()[-1]
    assert isinstance(last, RunFailed)
    assert "2 image(s) at a time" in last.message["en"]
    assert "同時に 2 枚" in last.message["ja"]


def test_commands_and_pictures_are_the_first_ones_and_all_stop_at_the_same_step(base, tmp_path):
    values = dotted(
        save__output_dir=tmp_path / "out",
        launch__processes=2,
        train__epochs=500,
        sample__prompts="a bear --w 64 --h 64 --s 1",
        sample__at_start=True,
    )
    settings = with_values(base, values)
    run = create_run(settings, tmp_path / "runs")
    run.send(SaveNow())
    run.send(Stop())
    assert together(2, lambda: run_training(settings, run)) == [0, 0]
    events = run.read_events()
    assert losses(run) == [losses(run)[0]]
    assert len([event for event in events if isinstance(event, SampleSaved)]) == 1
    assert isinstance(events[-1], RunFinished)
    assert events[-1].reason == "stopped"
    assert (tmp_path / "out" / "usu-step00000001.safetensors").is_file()


# ---- shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_a_batch_and_their_weights_are_its_mean(count, size):
    shares = [Team(Place(rank, size)).share(count) for rank in range(size)]
    values = torch.arange(count, dtype=torch.float64)
    covered = [int(v) for share in shares if share.weight for v in values[share.rows]]
    assert covered == list(range(count))
    assert all(len(values[share.rows]) for share in shares)  # nobody meets an empty batch
    assert sum(share.weight * values[share.rows].mean() for share in shares) == pytest.approx(values.mean())


def gradients(team: Team, rank: int) -> tuple[list, float]:
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3)]
    parameters[0].grad = torch.full((2, 3), 1.0 + rank)
    if rank == 1:  # left out by the module dropout of the other process
        parameters[1].grad = torch.ones(2, 3)
    total = team.sum_gradients(parameters, torch.tensor(0.25))
    return [None if p.grad is None else p.grad.mean().item() for p in parameters], total.item()


def test_gradients_of_some_processes_are_added_and_those_of_none_stay_none():
    def job() -> int:
        torch.distributed.init_process_group("gloo")
        rank = int(os.environ["RANK"])
        return 0 if gradients(Team(Place(rank, 2)), rank) == ([3.0, 1.0, None], 0.5) else 1

    assert together(2, job) == [0, 0]


# ---- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def started(base, tmp_path):
    """(process of the command line, run folder) of a long training with two processes."""
    long = dotted(train__epochs=50_000, save__save_every_n_epochs=None)
    settings = with_values(base, dotted(save__output_dir=tmp_path / "out", launch__processes=2) | long)
    run = create_run(settings, tmp_path / "runs")
    command = [sys.executable, "-m", "lora_core", "train", str(run.path)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process, run
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in family:
            one.kill()
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def ranks(process: subprocess.Popen) -> list[psutil.Process]:
    """The training processes, the first one first."""
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it may be gone, or be nothing yet
            found += [(one.environ()["RANK"], one)] if "RANK" in one.environ() else []
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def test_the_command_line_trains_with_two_processes(base, tmp_path):
    one = trained(base, tmp_path, "one", **dotted(train__train_batch_size=4))
    values = dotted(train__train_batch_size=2, launch__processes=2, save__output_dir=tmp_path / "two")
    file = save_settings(with_values(base, values), tmp_path / "settings.toml")
    environment = {**os.environ, "KUMAKOBO_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "lora_core", "train", str(file)]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes × batch size 2 = 4 images at a time" in done.stdout
    assert done.stdout.count("Finished after") == 1  # one voice for all
    (run,) = list_runs(tmp_path / "home" / "runs")
    path = tmp_path / "two" / "usu.safetensors"
    assert_same(one, (run, load_file(path)))
    said = read_header(path).metadata
    wanted = {"ss_batch_size_per_device": 2, "ss_total_batch_size": 4, "ss_num_batches_per_epoch": 3}
    wanted |= {"ss_max_train_steps": 6, "ss_steps": 6}
    assert {name: int(said[name]) for name in wanted} == wanted


def test_a_rank_that_dies_ends_the_run_with_a_reason(started):
    process, run = started
    wait_until(lambda: len(losses(run)) > 3 or process.poll() is not None)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    ranks(process)[1].kill()
    assert process.wait(60) == 1
    last = run.read_events()[-1]
    assert isinstance(last, RunFailed)
    assert "One of the processes" in last.message["en"]
    assert list(run.path.parent.parent.glob("out/usu-step*-state"))  # what was learned is not lost
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)


def test_terminated_it_leaves_no_process_behind(started):
    process, run = started
    wait_until(lambda: len(ranks(process)) == 2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)
    last = run.read_events()[-1]
    assert isinstance(last, RunFinished)
    assert last.reason == "stopped"
