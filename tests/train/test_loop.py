"""The loop on a tiny model: what it writes, that it can be repeated, interrupted and resumed bit for bit."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lora_core.errors import UserError
from lora_core.events import (
    CheckpointSaved,
    Command,
    EpochDone,
    Pause,
    Resume,
    RunFinished,
    RunStarted,
    SampleNow,
    SampleSaved,
    SaveNow,
    StageChanged,
    StepDone,
    Stop,
)
from lora_core.settings import RunSettings
from lora_core.train.loop import train
from tests.models import tiny_sd_folder

OPTIMIZERS = [
    "AdamW",
    "AdamW8bit",
    "PagedAdamW8bit",
    "Lion",
    "Lion8bit",
    "Adafactor",
    "DAdaptAdam",
    "Prodigy",
    "AdamWScheduleFree",
]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny_sd_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Five pictures in two shapes, two of them with captions; "2_usu bear" and, apart, "1_bear"."""
    root = tmp_path_factory.mktemp("images")
    for folder, count in (("train/2_usu bear", 5), ("reg/1_bear", 3)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            size = (96, 64) if i % 2 else (64, 64)
            Image.new("RGB", size, (40 * i, 200 - 30 * i, 90)).save(root / folder / f"{i}.png")
    (root / "train/2_usu bear/0.txt").write_text("usu bear, red, round", encoding="utf-8")
    (root / "train/2_usu bear/1.txt").write_text("usu bear, green", encoding="utf-8")
    return root


@pytest.fixture
def settings(model, images, tmp_path) -> RunSettings:
    """10 samples in two buckets, batch 2: 3 + 2 batches, and 2 epochs of 5 steps."""
    return RunSettings(
        model={"base": str(model)},
        dataset={
            "train_dir": images / "train",
            "resolution": "64",
            "min_bucket_reso": 32,
            "bucket_reso_steps": 32,
            "flip_aug": True,
            "shuffle_caption": True,
        },
        network={"rank": 2, "alpha": 1, "network_dropout": 0.1},
        optimizer={"name": "AdamW"},
        train={"epochs": 2, "train_batch_size": 2, "learning_rate": 1e-3, "mixed_precision": "no", "seed": 0},
        save={"output_dir": tmp_path / "out", "output_name": "usu", "save_precision": "float"},
    )


def changed(settings: RunSettings, **sections: dict) -> RunSettings:
    data = settings.model_dump()
    for section, values in sections.items():
        data[section] |= values
    return RunSettings.model_validate(data)


def events_of(settings: RunSettings, commands: Iterable[Command] = ()) -> list:
    return list(train(settings, commands))


def only(events: list, kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


class At:
    """Commands that come up when the run has taken so many steps (counted by its looks at the commands)."""

    def __init__(self, **commands: Command):
        self.commands = {int(step.removeprefix("step")): command for step, command in commands.items()}
        self.looks = 0

    def __iter__(self) -> Iterator[Command]:
        self.looks += 1
        if self.looks in self.commands:
            yield self.commands[self.looks]


def weights(path: Path) -> bytes:
    """Everything in the file but the header, whose times differ."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def final(settings: RunSettings) -> Path:
    return settings.save.output_dir / "usu.safetensors"


def test_steps_epochs_and_files_are_those_of_the_plan(settings):
    events = events_of(settings)
    started = only(events, RunStarted)[0]
    steps = only(events, StepDone)
    assert [s.step for s in steps] == list(range(1, started.total_steps + 1))
    assert started.total_steps == 2 * started.steps_per_epoch
    assert [e.epoch for e in only(events, EpochDone)] == [1, 2]
    assert {s.epoch for s in steps} == {1, 2}
    assert all(s.learning_rate.keys() == {"unet", "text_encoder"} for s in steps)
    assert [e.path.name for e in only(events, CheckpointSaved)] == ["usu-000001.safetensors", "usu.safetensors"]
    assert isinstance(events[-1], RunFinished)
    assert events[-1].reason == "completed"
    beside = RunSettings.model_validate_json(final(settings).with_suffix(".json").read_text("utf-8"))
    assert beside == settings
    assert any("2 x 5" in line or "5" in line for line in started.summary["en"])
    assert len(started.summary["ja"]) == len(started.summary["en"])


def test_the_lora_says_how_it_was_made(settings):
    events_of(settings)
    with safe_open(final(settings), "pt") as file:
        metadata = file.metadata()
        names = list(file.keys())
    assert metadata["ss_network_dim"] == "2"
    assert metadata["ss_seed"] == "0"
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert json.loads(metadata["ss_tag_frequency"])["2_usu bear"]["usu bear"] == 5
    assert {name.split(".", 1)[1] for name in names} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert any(name.startswith("lora_te_text_model_") for name in names)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_same_seed_gives_the_same_file_and_another_seed_does_not(settings, tmp_path, precision):
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        one = changed(
            settings, save={"output_dir": tmp_path / name}, train={"seed": seed, "mixed_precision": precision}
        )
        events_of(one)
        files.append(weights(final(one)))
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stopped_and_resumed_it_ends_with_the_file_of_an_unbroken_run(settings, tmp_path, optimizer):
    rate = 1.0 if optimizer in ("DAdaptAdam", "Prodigy") else 1e-3
    schedule = "adafactor" if optimizer == "Adafactor" else "constant" if "Free" in optimizer else "cosine"
    settings = changed(
        settings,
        train={"learning_rate": rate, "gradient_accumulation_steps": 2},
        sample={"prompts": "usu bear --w 64 --h 64 --s 2", "every_n_epochs": 1},
        network={"scale_weight_norms": 1.0},
    ).model_copy(
        update={
            "optimizer": RunSettings(optimizer={"name": optimizer}).optimizer,
            "schedule": RunSettings(schedule={"name": schedule}).schedule,
        }
    )
    whole = changed(settings, save={"output_dir": tmp_path / "whole"})
    events_of(whole)

    events = events_of(settings, At(step2=Stop(save=True)))
    assert events[-1].reason == "stopped"
    assert events[-1].path.name == "usu-step00000002.safetensors"
    state = only(events, CheckpointSaved)[-1].state
    rest = events_of(changed(settings, save={"resume": state}))
    assert only(rest, StepDone)[0].step == 3
    assert weights(final(settings)) == weights(final(whole))


NETWORKS = {
    "locon": {"conv_rank": 2, "network_dropout": 0.1},
    "loha": {"conv_rank": 2, "scale_weight_norms": 1.0},
    "lokr": {"conv_rank": 2, "factor": 4},
    "dora": {"conv_rank": 2, "rs_lora": True},
}


def with_network(settings: RunSettings, **values) -> RunSettings:
    return settings.model_copy(update={"network": RunSettings(network=values).network})


@pytest.mark.parametrize("algo", NETWORKS)
def test_every_algorithm_resumes_to_the_file_of_an_unbroken_run(settings, tmp_path, algo):
    dropout = {"rank_dropout": 0.1, "module_dropout": 0.1}
    settings = with_network(settings, algo=algo, rank=2, alpha=1, **NETWORKS[algo], **dropout)
    whole = changed(settings, save={"output_dir": tmp_path / "whole"})
    events = events_of(whole)
    assert RunSettings.model_validate_json(final(whole).with_suffix(".json").read_text("utf-8")) == whole
    assert any(line.lower().startswith(algo) for line in only(events, RunStarted)[0].summary["en"])
    stopped = events_of(settings, At(step3=Stop(save=True)))
    events_of(changed(settings, save={"resume": only(stopped, CheckpointSaved)[-1].state}))
    assert weights(final(settings)) == weights(final(whole))


def test_it_goes_on_from_a_lora_file(settings, tmp_path):
    events_of(settings)
    second = changed(settings, save={"output_name": "again"}, network={"network_weights": final(settings)})
    assert only(events_of(second), StepDone)
    other_rank = changed(second, save={"output_name": "third"}, network={"rank": 8})
    with pytest.raises(UserError, match="has the shape"):
        events_of(other_rank)
    taken = changed(other_rank, network={"dim_from_weights": True})
    events_of(taken)
    with safe_open(settings.save.output_dir / "third.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == "Dynamic"


def test_a_state_from_before_there_were_other_algorithms_still_fits(settings):
    stopped = events_of(settings, At(step2=Stop(save=True)))
    state = only(stopped, CheckpointSaved)[-1].state
    position = json.loads((state / "position.json").read_text("utf-8"))
    known = ("network.algo", "network.rank", "network.alpha")
    position["settings"] = {
        path: value for path, value in position["settings"].items() if path[:8] != "network." or path in known
    }
    (state / "position.json").write_text(json.dumps(position), encoding="utf-8")
    assert only(events_of(changed(settings, save={"resume": state})), StepDone)


@pytest.mark.parametrize("step", [1, 4, 7, 9])
def test_it_resumes_from_any_step(settings, tmp_path, step):
    whole = changed(settings, save={"output_dir": tmp_path / "whole"})
    events_of(whole)
    stopped = events_of(settings, At(**{f"step{step}": Stop(save=True)}))
    events_of(changed(settings, save={"resume": only(stopped, CheckpointSaved)[-1].state}))
    assert weights(final(settings)) == weights(final(whole))


def test_samples_saves_and_pauses_on_the_way_change_nothing(settings, tmp_path):
    plain = changed(settings, save={"output_dir": tmp_path / "plain", "save_every_n_epochs": None})
    events_of(plain)
    busy = changed(
        settings,
        save={"save_every_n_steps": 2, "save_state": True},
        sample={"prompts": "usu bear --w 64 --h 64 --s 2\nbear --w 64 --h 64 --s 2 --n cat", "every_n_steps": 3},
    )
    events = events_of(busy, At(step2=SampleNow(), step3=SaveNow(), step4=Pause(), step5=Resume()))
    assert len(only(events, SampleSaved)) >= 2 * 4
    assert all(event.path.is_file() for event in only(events, SampleSaved))
    assert "paused" in {event.stage for event in only(events, StageChanged)}
    assert weights(final(busy)) == weights(final(plain))


def test_stop_without_saving_writes_nothing_more(settings):
    events = events_of(settings, At(step2=Stop(save=False)))
    assert events[-1].reason == "stopped"
    assert events[-1].path is None
    assert only(events, CheckpointSaved) == []


def test_only_the_last_saves_are_kept(settings):
    events_of(changed(settings, save={"save_every_n_steps": 2, "keep_last_n": 2, "save_every_n_epochs": None}))
    assert sorted(p.name for p in settings.save.output_dir.glob("*.safetensors")) == [
        "usu-step00000006.safetensors",
        "usu-step00000008.safetensors",
        "usu.safetensors",
    ]


def test_u_net_only_and_its_cached_captions(settings):
    events = events_of(changed(settings, train={"train_text_encoder": False}))
    assert only(events, StepDone)[0].learning_rate.keys() == {"unet"}
    assert not any(name.startswith("lora_te_") for name in load_file(final(settings)))


def test_regularisation_without_weight_is_as_if_it_were_not_there(settings, images, tmp_path):
    plain = changed(settings, save={"output_dir": tmp_path / "plain"})
    events_of(plain)
    with_reg = changed(settings, dataset={"reg_dir": images / "reg"}, loss={"prior_loss_weight": 0})
    events_of(with_reg)
    assert weights(final(with_reg)) == weights(final(plain))
    used = changed(with_reg, loss={"prior_loss_weight": 1.0}, save={"output_dir": tmp_path / "used"})
    doubled = only(events_of(used), RunStarted)[0]
    assert doubled.total_steps > 10


@pytest.mark.parametrize("cache", ["disk", "off"])
def test_how_latents_are_kept_does_not_change_the_result(settings, tmp_path, cache):
    plain = changed(settings, save={"output_dir": tmp_path / "plain"})
    events_of(plain)
    other = changed(settings, dataset={"cache_latents": cache, "cache_dir": tmp_path / "cache"})
    events_of(other)
    a, b = load_file(final(plain)), load_file(final(other))
    assert a.keys() == b.keys()
    # Encoding one picture or several at a time rounds differently, so not bit for bit when nothing is cached.
    assert all((a[name] - b[name]).abs().max() < 1e-4 for name in a)


def test_gradient_checkpointing_does_not_change_the_result(settings, tmp_path):
    plain = changed(settings, save={"output_dir": tmp_path / "plain"})
    events_of(plain)
    saving = changed(settings, train={"gradient_checkpointing": True})
    events_of(saving)
    a, b = load_file(final(plain)), load_file(final(saving))
    assert all((a[name] - b[name]).abs().max() < 1e-5 for name in a)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_file(settings):
    wild = changed(
        settings, train={"learning_rate": 10.0, "max_grad_norm": None}, save={"save_every_n_steps": 1}
    ).model_copy(
        update={"optimizer": RunSettings(optimizer={"name": "custom", "class_path": "tests.bad.Exploding"}).optimizer}
    )
    seen = []
    with pytest.raises(UserError, match="is no longer usable") as error:
        seen.extend(train(wild))
    assert error.value.key == "train.loss_not_finite"
    assert not final(settings).exists()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"network": {"rank": 4}}, "train.state_settings_differ"),
        ({"train": {"train_batch_size": 1}}, "train.state_batch_differs"),
        ({"dataset": {"caption_extension": ".caption"}}, "train.state_dataset_differs"),
    ],
)
def test_a_resume_that_could_not_be_exact_is_refused(settings, change, key):
    events = events_of(settings, At(step2=Stop(save=True)))
    state = only(events, CheckpointSaved)[-1].state
    other = changed(changed(settings, save={"resume": state}), **change)
    with pytest.raises(UserError) as error:
        events_of(other)
    assert error.value.key == key
