"""Can it run here? Everything that can be found out before a model is loaded, as sentences with a cure. Torch-free.

The app shows the findings at the fields before a job starts, the trainer repeats the check as its first act.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lora_core import base_weights, selection
from lora_core.checks import combination_problems, has_no_rank
from lora_core.data.checks import checked
from lora_core.data.folders import scan
from lora_core.data.held_out import held_out_problems
from lora_core.data.mask_files import mask_problems
from lora_core.errors import Problem, UserError
from lora_core.families import FAMILIES, flux_source
from lora_core.families.source import BUILT_IN, require_base
from lora_core.generate.prompts import parse
from lora_core.io.headers import FileKind, identify
from lora_core.launch_checks import cards_here, config_here
from lora_core.plan import plan_of_scan
from lora_core.settings import FluxModel, NetworkSettings, RunSettings
from lora_core.train.files import files_in_the_way, final_file, free_name
from lora_core.train.optimizer_table import package_of


def check(settings: RunSettings, *, starting: bool = False, deep: bool = False) -> list[Problem]:
    """All findings, errors first.

    ``starting`` also makes the output folder, which the form must not do while the person is still typing its name.
    ``deep`` reads every image whole, which finds truncated ones; without it only their headers are read.
    """
    found = [problem for one in CHECKS for problem in one(settings)] + list(dataset(settings, deep))
    if starting and not any(p.severity == "error" for p in found):
        found += _make_output_folder(settings)
    return sorted(found, key=lambda problem: problem.severity != "error")


def required(settings: RunSettings) -> Iterator[Problem]:
    """Fields without which there is nothing to do."""
    if not settings.model.base.strip():
        yield Problem("model.base", "preflight.no_model", fix={"model.base": BUILT_IN})
    if not settings.dataset.has_pictures and not settings.draws_its_pictures:
        yield Problem("dataset.train_dir", "preflight.no_images_folder")
    if settings.save.output_dir is None:
        yield Problem("save.output_dir", "preflight.no_output_folder")


def model(settings: RunSettings) -> Iterator[Problem]:
    """The file is there and is a model that can be trained, judged by its header."""
    if not settings.model.base.strip():
        return
    if isinstance(settings.model, FluxModel):
        yield from _flux(settings.model)
        return
    try:
        kind = require_base(settings.model)
    except UserError as error:
        path = "model.vae" if error.key.startswith("vae.") else "model.base"
        found = error.values.get("found")  # the family that the file is of, where that is the one thing wrong
        yield Problem(path, error.key, error.values, fix={"model.family": found} if found else {})
        return
    yield from _guessed_prediction(settings, kind)


def _guessed_prediction(settings: RunSettings, kind: FileKind | None) -> Iterator[Problem]:
    """A file of Stable Diffusion 2 does not say what it predicts; the wrong one trains a LoRA that draws noise."""
    if kind is None or kind.prediction_from == "file" or getattr(settings.model, "prediction_type", "") != "auto":
        return
    guess = kind.prediction_type
    names = {"epsilon": "epsilon", "v_prediction": "v-prediction"}
    values = {"path": kind.path, "guess": names[guess], "other": next(n for p, n in names.items() if p != guess)}
    yield Problem(
        "model.prediction_type",
        f"preflight.prediction_{'by_weights' if kind.prediction_from == 'weights' else 'assumed'}",
        values,
        "warning",
        fix={"model.prediction_type": guess},
    )


def _flux(model: FluxModel) -> Iterator[Problem]:
    """FLUX.1 comes in several files, each with a field of its own."""
    for path, error in flux_source.problems(model):
        found = error.values.get("found") if error.key == "flux.other_family" else None
        yield Problem(path, error.key, error.values, fix={"model.family": found} if found in FAMILIES else {})


def dataset(settings: RunSettings, deep: bool) -> Iterator[Problem]:
    """The folders, images and captions, and whether they come to at least one step."""
    if not settings.dataset.has_pictures:
        return
    found = checked(scan(settings.dataset), settings.dataset, deep=deep)
    yield from found.problems
    yield from mask_problems(settings, found)
    yield from held_out_problems(settings, found)
    if found.train and found.ok and plan_of_scan(found, settings).total_steps < 1:
        yield Problem(found.train[0].setting, "preflight.no_steps", {"path": found.train[0].folder})


def output(settings: RunSettings) -> Iterator[Problem]:
    """The output folder can be written, has room, and holds no file of the same name."""
    save = settings.save
    if save.output_dir is None:
        return
    place = _first_existing(save.output_dir)
    if save.output_dir.exists() and not save.output_dir.is_dir():
        yield Problem("save.output_dir", "preflight.output_is_file", {"path": save.output_dir})
        return
    if place is None or not os.access(place, os.W_OK):
        yield Problem("save.output_dir", "preflight.output_not_writable", {"path": save.output_dir})
        return
    free, needed = shutil.disk_usage(place).free, _bytes_needed(settings)
    if free < needed:
        values = {"path": save.output_dir, "free": free / 2**30, "needed": needed / 2**30}
        yield Problem("save.output_dir", "preflight.disk_full", values)
    blocking = [final_file(save)] if save.resume else files_in_the_way(save)
    if not save.overwrite and (there := [path for path in blocking if path.exists()]):
        name = free_name(save)
        values = {"path": there[0], "count": len(there), "name": name}
        yield Problem("save.output_name", "preflight.would_overwrite", values, fix={"save.output_name": name})


def resume(settings: RunSettings) -> Iterator[Problem]:
    folder = settings.save.resume
    if folder is not None and not (folder / "position.json").is_file():
        yield Problem("save.resume", "train.state_missing", {"path": folder})


def warm_start(settings: RunSettings) -> Iterator[Problem]:
    """The file to go on from is there and is a LoRA; whether its layers fit is seen when the model is there."""
    path = settings.network.network_weights
    if path is None:
        return
    try:
        found = identify(path)
    except UserError as error:
        yield Problem.of("network.network_weights", error)
        return
    if found.kind != "lora" or found.container != "safetensors":
        yield Problem("network.network_weights", "preflight.weights_no_lora", {"path": path})


def merged_first(settings: RunSettings) -> Iterator[Problem]:
    """The files to merge into the base are there and are LoRAs."""
    path = "network.base_weights"
    try:
        sources = base_weights.parse(settings.network.base_weights)
    except UserError as error:
        yield Problem.of(path, error)
        return
    for source in sources:
        try:
            found = identify(source.path)
        except UserError as error:
            yield Problem.of(path, error)
            continue
        if found.kind != "lora":
            yield Problem(path, "preflight.merge_no_lora", {"path": source.path})


def prompts(settings: RunSettings) -> Iterator[Problem]:
    try:
        parse(settings.sample.prompts)
    except UserError as error:
        yield Problem.of("sample.prompts", error)


def packages(settings: RunSettings) -> Iterator[Problem]:
    """What the optimizer needs is installed and works on this system."""
    package = package_of(settings.optimizer.name)
    if package and importlib.util.find_spec(package) is None:
        values = {"name": settings.optimizer.name, "package": package}
        yield Problem("optimizer.name", "preflight.package_missing", values, fix={"optimizer.name": "AdamW"})
    elif package == "bitsandbytes" and sys.platform == "darwin":
        values = {"name": settings.optimizer.name}
        yield Problem("optimizer.name", "preflight.no_8bit_on_mac", values, fix={"optimizer.name": "AdamW"})
    if settings.save.tensorboard and importlib.util.find_spec("tensorboard") is None:
        fix = {"save.tensorboard": False}
        yield Problem("save.tensorboard", "preflight.no_tensorboard", {}, fix=fix)


CHECKS: tuple[Callable[[RunSettings], Iterable[Problem]], ...] = (
    required,
    combination_problems,
    model,
    output,
    resume,
    warm_start,
    merged_first,
    selection.problems,
    prompts,
    packages,
    config_here,
    cards_here,
)


def _first_existing(path: Path) -> Path | None:
    """The folder itself, or the nearest one above it that exists."""
    return next((p for p in (path, *path.absolute().parents) if p.is_dir()), None)


def _bytes_needed(settings: RunSettings) -> int:
    """A generous estimate: 8 MB of LoRA per 16 ranks of SD 1.5 in fp16, four times that for each training state."""
    lora = int(_lora_size(settings.network)) * (2 if settings.save.save_precision == "float" else 1)
    saves = 1 + (settings.train.epochs // settings.save.save_every_n_epochs if settings.save.save_every_n_epochs else 0)
    saves = min(saves, settings.save.keep_last_n + 1) if settings.save.keep_last_n else saves
    states = saves if settings.save.save_state else 1
    return lora * saves + 8 * lora * states + 50 * 2**20


def _lora_size(network: NetworkSettings) -> float:
    """Bytes in fp16. A full matrix of LoKr has the layer's size (600 MB in all, 1.7 GB with convolutions) / factor²."""
    if has_no_rank(network):
        return (1.7e9 if network.convolutions else 0.6e9) / (getattr(network, "factor", None) or 16) ** 2
    rank = network.rank + (network.rank_and_alpha(kernel=True)[0] if network.convolutions else 0)
    return 9.5e6 * rank / 16 * (2 if network.algo == "loha" else 1)


def _make_output_folder(settings: RunSettings) -> list[Problem]:
    assert settings.save.output_dir is not None
    try:
        settings.save.output_dir.mkdir(parents=True, exist_ok=True)
        probe = settings.save.output_dir / f".kumakobo-{os.getpid()}.tmp"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        values = {"path": settings.save.output_dir}
        key = "preflight.disk_is_full" if error.errno == 28 else "preflight.output_not_writable"
        return [Problem("save.output_dir", key, values)]
    return []
