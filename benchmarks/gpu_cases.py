"""The cases of gpu_check.py and what is measured in each. Every check gives a row: a flat dict of findings."""

import gc
import math
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor

from benchmarks.random_models import pipeline_of, random_components, replace_loading
from lora_core.events import CheckpointSaved, FileSaved, SampleSaved, StepDone
from lora_core.families import FAMILIES
from lora_core.families.latents import KlLatents
from lora_core.generate.preview import preview
from lora_core.io.safetensors import read_tensors
from lora_core.runs import RunFolder
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import apply_preset, find_preset
from lora_core.settings.tools import LoraSource, MergeSettings, PreviewSettings
from lora_core.train import loop
from lora_core.train.device import choose_device
from lora_core.train.session import Session, train_step

GIB = 2**30
IMAGES = 2
WARM, REPEATS, EACH, WATCHED = 3, 3, 5, 2
"""Steps: to warm up, then so many repeats of so many timed ones, then some watched for waits."""
STEPS = WARM + REPEATS * EACH + WATCHED
OVERHEAD_GB = 0.6
"""Of a card's memory that is not PyTorch's to give out: CUDA itself, and the screen."""
Changes = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    family: str
    size: int
    """Side of the pictures in pixels; 64 in a try with small models."""
    changes: Changes = field(default_factory=dict)
    """Settings by section."""
    check: str = "train"
    whole: bool = False
    """All of FLUX.1, not a few blocks."""
    least_gb: float = 0.0
    """Memory a card must have for this to be worth a try."""
    preset: str = ""
    cap_gb: float | None = None
    """The memory of the card that is imitated."""


TEXTS_TOO = {"train_text_encoder": True}
UNET_ONLY = {"train_text_encoder": False}
CHECKPOINTED = UNET_ONLY | {"gradient_checkpointing": True}


def _sd15(optimizer: str) -> Case:
    rate = 1.0 if optimizer == "Prodigy" else 1e-5 if optimizer == "Lion8bit" else 1e-4
    return Case("sd1", 512, {"optimizer": {"name": optimizer}, "train": UNET_ONLY | {"learning_rate": rate}})


CASES: Mapping[str, Case] = {
    "sd15 b1": Case("sd1", 512, {"train": TEXTS_TOO}),
    "sd15 b4": Case("sd1", 512, {"train": TEXTS_TOO | {"train_batch_size": 4}}),
    "sd15 fp16": Case("sd1", 512, {"train": TEXTS_TOO | {"mixed_precision": "fp16"}}),
    "sd15 AdamW": _sd15("AdamW"),
    "sd15 AdamW8bit": _sd15("AdamW8bit"),
    "sd15 PagedAdamW8bit": _sd15("PagedAdamW8bit"),
    "sd15 Lion8bit": _sd15("Lion8bit"),
    "sd15 Prodigy": _sd15("Prodigy"),
    "sd2 768": Case("sd2", 768, {"train": TEXTS_TOO}),
    "sdxl": Case("sdxl", 1024, {"train": UNET_ONLY}, least_gb=14),
    "sdxl checkpointing": Case("sdxl", 1024, {"train": CHECKPOINTED}, least_gb=8),
    "sdxl texts": Case("sdxl", 1024, {"train": TEXTS_TOO}, least_gb=14),
    "flux cut 512": Case("flux", 512, {"train": UNET_ONLY}),
    "flux cut 1024": Case("flux", 1024, {"train": UNET_ONLY}),
    "flux int8 512": Case("flux", 512, {"train": CHECKPOINTED | {"base_precision": "int8"}}, whole=True, least_gb=24),
    "flux nf4 512": Case("flux", 512, {"train": CHECKPOINTED | {"base_precision": "nf4"}}, whole=True, least_gb=12),
    "sdxl int8": Case("sdxl", 1024, {"train": CHECKPOINTED | {"base_precision": "int8"}}, least_gb=8),
    "sdxl nf4": Case("sdxl", 1024, {"train": CHECKPOINTED | {"base_precision": "nf4"}}, least_gb=8),
    "flux whole 512": Case("flux", 512, {"train": CHECKPOINTED}, whole=True, least_gb=32),
    "flux whole 1024": Case("flux", 1024, {"train": CHECKPOINTED}, whole=True, least_gb=36),
    "resume sd15": Case("sd1", 512, {"train": TEXTS_TOO}, check="resume"),
    "resume sdxl": Case("sdxl", 1024, {"train": UNET_ONLY}, check="resume", least_gb=14),
    "resume flux": Case("flux", 512, {"train": UNET_ONLY}, check="resume"),
    "preview sd15": Case("sd1", 512, check="preview"),
    "preview sdxl": Case("sdxl", 1024, check="preview", least_gb=8),
    "folder sd15": Case("sd1", 512, check="folder"),
    "folder sdxl": Case("sdxl", 1024, check="folder", least_gb=8),
    "preset sd15 6 GB": Case("sd1", 512, preset="sd15_low_memory", cap_gb=6),
    "preset sdxl 8 GB": Case("sdxl", 768, preset="sdxl_8gb", cap_gb=8),
    "preset sdxl 12 GB": Case("sdxl", 1024, preset="sdxl_12gb", cap_gb=12),
    "preset sdxl 16 GB": Case("sdxl", 1024, preset="sdxl_16gb", cap_gb=16),
    "preset sdxl 24 GB": Case("sdxl", 1024, preset="sdxl_24gb", cap_gb=24),
    "preset flux 12 GB": Case("flux", 512, preset="flux_12gb", whole=True, cap_gb=12),
    "preset flux 16 GB": Case("flux", 768, preset="flux_16gb", whole=True, cap_gb=16),
    "preset flux 24 GB": Case("flux", 768, preset="flux_24gb", whole=True, cap_gb=24),
}


@dataclass(frozen=True)
class Place:
    """Where a case runs."""

    folder: Path
    device: torch.device
    tiny: bool


def check_case(name: str, place: Place) -> Row:
    """The row of a case. What goes wrong is its reason, whatever it is."""
    case = CASES[name]
    began = time.perf_counter()
    row: Row = {"case": name, "ok": False, "reason": ""}
    try:
        with card_of(case, place):
            row |= CHECKS[case.check](case, place)
        row["ok"] = not row["reason"]
    except TooSmall as error:
        row |= {"ok": None, "reason": str(error)}
    except torch.OutOfMemoryError:
        row["reason"] = "out of memory"
    except Exception as error:
        row["reason"] = f"{type(error).__name__}: {error}".splitlines()[0]
        row["detail"] = traceback.format_exc()
    row["seconds_in_all"] = round(time.perf_counter() - began, 1)
    gc.collect()
    return row


class TooSmall(Exception):
    """The card has less memory than the case needs; nothing is wrong."""


@contextmanager
def card_of(case: Case, place: Place) -> Iterator[None]:
    """Inside, the device has the memory of the card that is imitated."""
    if place.device.type != "cuda" or place.tiny:
        yield
        return
    total = torch.cuda.get_device_properties(place.device).total_memory / GIB
    least = max(case.least_gb, case.cap_gb or 0.0)
    if total < least - 1:  # cards have a little less than they are sold with
        raise TooSmall(f"needs a card with {least:g} GB")
    if case.cap_gb is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, (case.cap_gb - OVERHEAD_GB) / total))
    try:
        yield
    finally:
        if case.cap_gb is not None:
            torch.cuda.set_per_process_memory_fraction(1.0)


# ---- Settings --------------------------------------------------------------------------------------------------------


def settings_of(case: Case, place: Place, *, steps: int = STEPS, name: str = "run", **more: Mapping[str, Any]):
    """The settings of a run of so many steps on pictures of noise."""
    size = 64 if place.tiny else case.size
    sections: dict[str, dict[str, Any]] = {
        "model": {"family": case.family, "base": "random"},
        "dataset": {"resolution": str(size)},
        "network": {"rank": 16, "alpha": 16.0},
        "optimizer": {"name": "AdamW"},
        "schedule": {"name": "constant"},
        "train": {"epochs": 1, "seed": 0, "device": place.device.type},
        "save": {"output_dir": place.folder / name, "output_name": "random", "save_every_n_epochs": None},
        "sample": {"every_n_epochs": None, "at_start": False, "steps": 3},
    }
    if place.tiny and case.family == "flux":
        sections["model"]["t5_max_token_length"] = 16
    for section, values in [*case.changes.items(), *more.items()]:
        sections[section] |= values
    if case.preset:
        return _preset_settings(case, place, sections, steps)
    settings = RunSettings.model_validate(sections)
    return _with_images(settings, place, size, steps)


def _preset_settings(case: Case, place: Place, sections: Changes, steps: int) -> RunSettings:
    """As the preset says, but for what the measuring needs."""
    settings = apply_preset(RunSettings(), find_preset(case.preset))
    kept = {
        f"{section}.{key}": sections[section][key]
        for section, keys in {
            "model": ("base",),
            "train": ("epochs", "seed", "device"),
            "save": ("output_dir", "output_name", "save_every_n_epochs"),
            "sample": ("every_n_epochs", "at_start", "steps"),
        }.items()
        for key in keys
    }
    if place.tiny:
        kept["dataset.resolution"] = "64"
    kept["dataset.cache_dir"] = place.folder / "cache"
    return _with_images(with_values(settings, kept), place, 64 if place.tiny else case.size, steps)


def _with_images(settings: RunSettings, place: Place, size: int, steps: int) -> RunSettings:
    batch, accumulation = settings.train.train_batch_size, settings.train.gradient_accumulation_steps
    repeats = steps * batch * accumulation // IMAGES
    images = place.folder / f"images_{size}_{repeats}"
    folder = images / f"{repeats}_usu bear"
    if not folder.exists():
        folder.mkdir(parents=True)
        for number in range(IMAGES):
            Image.effect_noise((size, size), 60).convert("RGB").save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"usu bear, number {number}", encoding="utf-8")
    sample = {"sample.prompts": f"a bear --w {size} --h {size}", "sample.every_n_steps": steps}
    return with_values(settings, {"dataset.train_dir": images, **sample})


# ---- Watching a run --------------------------------------------------------------------------------------------------


class Watch:
    """Stands before the trainer's step: times it, reads the memory, and finds where it waits for the card.

    It synchronises only between the repeats, so that processor and card overlap as they always do.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.times: list[float] = []
        self.memory: dict[str, float] = {}
        self.waits: dict[str, int] = {}
        self.began = self.first_step_at = time.perf_counter()
        self.session: Session | None = None
        self._marks = {WARM + EACH * repeat for repeat in range(REPEATS + 1)}

    def step(self, session: Session, step: int) -> Tensor:
        done = step - session.first_step
        if done == 0:
            self.session, self.first_step_at = session, time.perf_counter()
            self.note_memory("preparing")
        with self._waits_found(done >= max(self._marks)):
            loss = train_step(session, step)
        if done + 1 in self._marks:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.times.append(time.perf_counter())
        if done + 1 == STEPS:
            self.note_memory("training")
        return loss

    def note_memory(self, stage: str) -> None:
        """The most memory since the last call, in GiB."""
        if self.device.type == "cuda":
            self.memory[f"{stage}_peak_gb"] = torch.cuda.max_memory_allocated(self.device) / GIB
            self.memory[f"{stage}_reserved_gb"] = torch.cuda.max_memory_reserved(self.device) / GIB
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def seconds(self) -> list[float]:
        """Of a step, in each repeat."""
        return [(end - begin) / EACH for begin, end in zip(self.times, self.times[1:], strict=False)]

    @contextmanager
    def _waits_found(self, wanted: bool) -> Iterator[None]:
        """PyTorch warns of each wait ("warn" rather than "error": an error would show the first one only)."""
        if not wanted or self.device.type != "cuda":
            yield
            return

        def note(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
            if "synchronizing" in str(message):
                where = _where(filename, lineno)
                self.waits[where] = self.waits.get(where, 0) + 1

        with warnings.catch_warnings(), patch.object(warnings, "showwarning", note):
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")


def _where(filename: str, lineno: int) -> str:
    """The line that waits, and the line of ours that leads to it."""
    ours = [f for f in traceback.extract_stack() if "lora_core" in Path(f.filename).parts]
    lines = [(filename, lineno), *((f.filename, f.lineno) for f in ours[-1:])]
    return " < ".join(dict.fromkeys(f"{'/'.join(Path(file).parts[-3:])}:{line}" for file, line in lines))


@dataclass
class Run:
    """What a training gave."""

    watch: Watch
    losses: dict[int, float] = field(default_factory=dict)
    saved: list[CheckpointSaved] = field(default_factory=list)
    samples: list[Path] = field(default_factory=list)
    finite_pictures: list[bool] = field(default_factory=list)


def trained(settings: RunSettings, device: torch.device) -> Run:
    """A whole training through the trainer's own loop."""
    run = Run(Watch(device))
    with patch.object(loop, "train_step", run.watch.step), pictures_seen(run.finite_pictures):
        for event in loop.train(settings):
            match event:
                case StepDone():
                    run.losses[event.step] = event.loss
                case CheckpointSaved():
                    run.saved.append(event)
                case SampleSaved():
                    run.samples.append(event.path)
    run.watch.note_memory("sampling")
    return run


@contextmanager
def pictures_seen(finite: list[bool]) -> Iterator[None]:
    """Notes of every decoded picture whether all of it is finite: a PNG would not show it."""
    decode = KlLatents.decode

    def seen(self: Any, components: Any, latents: Tensor) -> Tensor:
        pixels = decode(self, components, latents)
        finite.append(bool(torch.isfinite(pixels).all()))
        return pixels

    with patch.object(KlLatents, "decode", seen):
        yield


# ---- The checks ------------------------------------------------------------------------------------------------------


def check_training(case: Case, place: Place) -> Row:
    """Speed, memory, loss, picture, and whether diffusers opens the LoRA."""
    settings = settings_of(case, place)
    compact = settings.train.base_precision != "full"
    with replace_loading(case.family, tiny=place.tiny, whole=case.whole, compact=compact) as made:
        run = trained(settings, place.device)
        row = figures(run)
        row["precision"] = run.watch.session.precision if run.watch.session else ""
        problems = [sentence for sentence in shortcomings(run) if sentence]
        if not case.preset and not compact:  # diffusers would be given the codes
            row["opens_in_diffusers"], problem = opened(case, run, made[-1])
            problems += [problem] if problem else []
    return row | {"reason": "; ".join(problems)}


def figures(run: Run) -> Row:
    """The numbers of a run, rounded."""
    watch, losses = run.watch, [loss for _, loss in sorted(run.losses.items())]
    third = max(1, len(losses) // 3)
    row: Row = {
        "steps": len(losses),
        "prepare_s": round(watch.first_step_at - watch.began, 2),
        "loss_first": round(statistics.mean(losses[:third]), 4),
        "loss_last": round(statistics.mean(losses[-third:]), 4),
        "picture_finite": bool(run.finite_pictures) and all(run.finite_pictures),
        **{name: round(value, 2) for name, value in watch.memory.items()},
    }
    if watch.seconds:
        row["step_s"] = round(statistics.median(watch.seconds), 4)
        row["spread_s"] = round(max(watch.seconds) - min(watch.seconds), 4)
    if watch.device.type == "cuda":
        row["waits"] = watch.waits
    return row


def shortcomings(run: Run) -> Iterator[str]:
    """What is wrong with a run that came to its end."""
    losses = list(run.losses.values())
    if len(losses) != STEPS:
        yield f"{len(losses)} of {STEPS} losses were told"
    if not all(map(math.isfinite, losses)):
        yield "a loss is not finite"
    if len(set(losses)) < 2:
        yield "the loss does not move"
    if not run.samples or not all(run.finite_pictures):
        yield "the sample picture is missing or not finite"
    weights = read_tensors(run.saved[-1].path)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        yield "a weight of the LoRA is not finite"
    elif not any(bool(tensor.any()) for name, tensor in weights.items() if name.endswith("lora_up.weight")):
        yield "the LoRA has learned nothing"


def opened(case: Case, run: Run, components: Any) -> tuple[bool | None, str]:
    """Whether diffusers opens the LoRA on the model it was trained on, and what went wrong; None: peft is missing."""
    try:
        from peft.tuners.lora.layer import LoraLayer
    except ImportError:
        return None, ""
    assert run.watch.session is not None
    run.watch.session.network.detach()
    path = run.saved[-1].path
    pipeline = pipeline_of(case.family, components)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    networks = [one for one in pipeline.components.values() if isinstance(one, torch.nn.Module)]
    found = sum(isinstance(module, LoraLayer) for network in networks for module in network.modules())
    wanted = len({name.partition(".")[0] for name in read_tensors(path)})
    # FLUX.1's fused layers are taken apart there.
    return found >= wanted, "" if found >= wanted else f"diffusers found {found} of {wanted} layers"


RESUMED_STEPS, RESUMED_AT = 6, 3
ROUNDING = 0.02
"""How far the resumed LoRA may be from the one trained in one go, relative to it: cards add up in varying order."""


def check_resume(case: Case, place: Place) -> Row:
    """Whether a run that was resumed ends like one that was not."""
    save = {"save_every_n_steps": RESUMED_AT, "save_state": True, "save_precision": "float"}
    with replace_loading(case.family, tiny=place.tiny, whole=case.whole):
        whole = trained(settings_of(case, place, steps=RESUMED_STEPS, name="whole", save=save), place.device)
        whole.watch.session = None  # its memory is wanted for the second one
        gc.collect()
        state = next(event.state for event in whole.saved if event.step == RESUMED_AT)
        settings = settings_of(case, place, steps=RESUMED_STEPS, name="resumed", save=save | {"resume": state})
        resumed = trained(settings, place.device)
    one, other = (read_tensors(run.saved[-1].path) for run in (whole, resumed))
    trained_names = [name for name in one if not name.endswith(".alpha")]
    difference = sum(float((one[name].double() - other[name].double()).square().sum()) for name in trained_names)
    size = sum(float(one[name].double().square().sum()) for name in trained_names)
    relative = math.sqrt(difference / size)
    losses = max(abs(loss - whole.losses[step]) / abs(whole.losses[step]) for step, loss in resumed.losses.items())
    fits = sorted(resumed.losses) == list(range(RESUMED_AT + 1, RESUMED_STEPS + 1)) and relative <= ROUNDING
    row = {"resumed_lora_differs": relative, "resumed_loss_differs": losses, "bit_for_bit": difference == 0}
    return row | {"reason": "" if fits else f"the resumed LoRA is {relative:.2g} away"}


def check_preview(case: Case, place: Place) -> Row:
    """A LoRA merged with itself and drawn with, in half precision on a card."""
    prompts = ["a bear"]
    size = 64 if place.tiny else case.size
    with replace_loading(case.family, tiny=place.tiny):
        run = trained(settings_of(case, place, steps=RESUMED_AT * 2), place.device)
        run.watch.session = None
        gc.collect()
        lora, folder = run.saved[-1].path, place.folder / "preview"
        folder.mkdir(parents=True, exist_ok=True)
        merge = MergeSettings(loras=[LoraSource(path=lora), LoraSource(path=lora, ratio=0.5)])
        settings = PreviewSettings(merge=merge, base="random", prompts=prompts, steps=3, width=size, height=size)
        began, finite = time.perf_counter(), list[bool]()
        with pictures_seen(finite):
            saved = [event for event in preview(settings, RunFolder(folder)) if isinstance(event, FileSaved)]
    row = {"pictures": len(saved), "preview_s": round(time.perf_counter() - began, 2), "picture_finite": all(finite)}
    return row | {"reason": "" if saved and all(finite) else "a picture is missing or not finite"}


def check_folder(case: Case, place: Place) -> Row:
    """How long a model in fp16 takes from its folder to the device, read for the first and a second time."""
    folder = place.folder / "model"
    pipeline_of(
        case.family, random_components(case.family, torch.float16, place.device, tiny=place.tiny)
    ).save_pretrained(folder)
    gc.collect()
    family = FAMILIES[case.family]
    model = RunSettings.model_validate({"model": {"family": case.family, "base": str(folder)}}).model
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        components = family.load(model, dtype=torch.bfloat16, device=place.device)
        for part in ("unet", "vae", *family.text_parts):
            components.part(part)
        if place.device.type == "cuda":
            torch.cuda.synchronize(place.device)
        seconds.append(round(time.perf_counter() - began, 2))
        del components
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"load_s": seconds[0], "load_again_s": seconds[1], "model_gb": round(size / GIB, 2)}


CHECKS: Mapping[str, Callable[[Case, Place], Row]] = {
    "train": check_training,
    "resume": check_resume,
    "preview": check_preview,
    "folder": check_folder,
}


def device_of(name: str) -> torch.device:
    """The device of that name; "auto" as training takes it."""
    return choose_device(RunSettings.model_validate({"train": {"device": name}}).train)
