"""How many steps a run will take, with the arithmetic spelled out. Needs no torch."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lora_core.data.checks import checked
from lora_core.data.epoch import batches_per_epoch, by_bucket, size_of_batch
from lora_core.data.folders import scan
from lora_core.data.held_out import trained_part
from lora_core.data.samples import Sample, build_samples
from lora_core.data.subsets import Scan
from lora_core.data.wording import counted, enumerated
from lora_core.i18n import Language, text
from lora_core.settings import RunSettings, sides
from lora_core.slider import PICTURES

MOST_FOLDERS = 8
"""So many folders get a line each; more are summed up in one."""


@dataclass(frozen=True)
class FolderCount:
    """A folder's part in an epoch."""

    name: str
    repeats: int
    images: int
    samples: int


@dataclass(frozen=True)
class DatasetCount:
    """A dataset's part in an epoch, of a dataset file."""

    number: int
    resolution: str
    batch_size: int
    samples: int
    buckets: int
    batches: int


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run, from folders to steps."""

    train: tuple[FolderCount, ...]
    reg: tuple[FolderCount, ...]
    """Regularisation folders; ``images`` are those used, ``samples`` how often they are shown in all."""
    reg_images_found: int
    buckets: dict[tuple[int, int], int]
    """Samples of each bucket size (width, height)."""
    batch_size: int
    """Images of a batch, over all processes."""
    accumulation: int
    batches_per_epoch: int
    epochs_wanted: int
    max_train_steps: int | None
    datasets: tuple[DatasetCount, ...] = ()
    """Those of a dataset file, where each has its own sizes and batches; empty without one."""
    processes: int = 1
    drawn: bool = False
    """The model draws the pictures itself: ``train`` names the prompt and not a folder."""

    @classmethod
    def of(cls, samples: Sequence[Sample], settings: RunSettings, *, reg_images_found: int | None = None) -> "Plan":
        """``reg_images_found`` tells how many regularisation images there are, if not all are used."""
        reg = _counted(sample for sample in samples if sample.subset.is_reg)
        return cls(
            train=_counted(sample for sample in samples if not sample.subset.is_reg),
            reg=reg,
            reg_images_found=sum(folder.images for folder in reg) if reg_images_found is None else reg_images_found,
            buckets={size: len(indices) for size, indices in sorted(by_bucket(samples).items())},
            batch_size=settings.images_per_batch,
            accumulation=settings.train.gradient_accumulation_steps,
            batches_per_epoch=batches_per_epoch(samples, settings.images_per_batch),
            epochs_wanted=settings.train.epochs,
            max_train_steps=settings.train.max_train_steps,
            datasets=_datasets(samples, settings.images_per_batch),
            processes=settings.launch.processes,
        )

    @property
    def train_images(self) -> int:
        return sum(folder.images for folder in self.train)

    @property
    def train_samples(self) -> int:
        return sum(folder.samples for folder in self.train)

    @property
    def reg_images(self) -> int:
        """Regularisation images used."""
        return sum(folder.images for folder in self.reg)

    @property
    def reg_samples(self) -> int:
        return sum(folder.samples for folder in self.reg)

    @property
    def samples(self) -> int:
        return self.train_samples + self.reg_samples

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.batches_per_epoch / self.accumulation)

    @property
    def total_steps(self) -> int:
        steps = self.steps_per_epoch * self.epochs_wanted
        return steps if self.max_train_steps is None else min(steps, self.max_train_steps)

    @property
    def epochs(self) -> int:
        """Epochs begun; the last one may be cut by the limit of steps."""
        return math.ceil(self.total_steps / self.steps_per_epoch) if self.steps_per_epoch else 0

    def lines(self, language: Language = "en") -> list[str]:
        """The arithmetic for a person: from images to steps, one line each."""
        return [*self._image_lines(language), *self._step_lines(language)]

    def _image_lines(self, language: Language) -> list[str]:
        if self.drawn:
            return [text("plan.drawn", language, prompt=self.train[0].name, images=self.train_images)]
        many = len(self.train) > MOST_FOLDERS
        lines = [self._sum_line(language)] if many else [_folder_line(folder, language) for folder in self.train]
        if 1 < len(self.train) <= MOST_FOLDERS:
            parts = " + ".join(f"{folder.samples:,}" for folder in self.train)
            lines.append(text("plan.train_sum", language, parts=parts, samples=self.train_samples))
        if self.reg:
            lines.append(self._reg_line(language))
            values = {"train": self.train_samples, "reg": self.reg_samples, "samples": self.samples}
            lines.append(text("plan.with_reg", language, **values))
        elif self.reg_images_found:
            lines.append(text("plan.no_reg", language))
        return lines

    def _sum_line(self, language: Language) -> str:
        images = counted("data.images", self.train_images, language)
        return text("plan.folders", language, folders=len(self.train), images=images, samples=self.train_samples)

    def _reg_line(self, language: Language) -> str:
        folders = enumerated(folder.name for folder in self.reg)
        found = counted("data.images", self.reg_images_found, language)
        key = "plan.reg_part" if self.reg_images < self.reg_images_found else "plan.reg_all"
        return text(key, language, folders=folders, used=self.reg_images, found=found, samples=self.reg_samples)

    def _step_lines(self, language: Language) -> list[str]:
        def steps(number: int) -> str:
            return counted("plan.n_steps", number, language)

        batches = counted("plan.n_batches", self.batches_per_epoch, language)
        per_epoch = steps(self.steps_per_epoch)
        planned = self.steps_per_epoch * self.epochs_wanted
        whole = batches if self.accumulation > 1 else per_epoch
        lines = [*self._team_lines(language), *self._batch_lines(whole, language)]
        if self.accumulation > 1:
            values = {"batches": batches, "accumulation": self.accumulation, "per_epoch": per_epoch}
            lines.append(text("plan.accumulation", language, **values))
        epochs = counted("plan.epochs", self.epochs_wanted, language)
        lines.append(text("plan.steps", language, per_epoch=per_epoch, epochs=epochs, planned=steps(planned)))
        if self.total_steps < planned:
            lines.append(text("plan.cut", language, total=steps(self.total_steps)))
        return lines

    def _batch_lines(self, batches: str, language: Language) -> list[str]:
        """From samples to batches; for a dataset file one line a dataset and their sum."""
        if self.datasets:
            lines = [_dataset_line(dataset, language) for dataset in self.datasets[:MOST_FOLDERS]]
            return [*lines, text("plan.datasets", language, samples=self.samples, batches=batches)]
        values = {"samples": self.samples, "batch": self.batch_size, "buckets": len(self.buckets)}
        return [text(self._batches_key(), language, **values, batches=batches)]

    def _team_lines(self, language: Language) -> list[str]:
        if self.processes == 1:
            return []
        each = self.batch_size // self.processes
        return [text("plan.processes", language, processes=self.processes, each=each, batch=self.batch_size)]

    def _batches_key(self) -> str:
        if self.batches_per_epoch * self.batch_size == self.samples:
            return "plan.batches"
        return "plan.batches_uneven" if len(self.buckets) > 1 else "plan.batches_short"


@dataclass(frozen=True)
class Preview:
    """What the page shows while folders are chosen."""

    scan: Scan
    plan: Plan | None
    """None while there is nothing to train on."""


def preview(settings: RunSettings) -> Preview:
    """Folders, problems and steps at the speed of a page: reads folders, image headers and captions, no pixels."""
    if settings.draws_its_pictures:
        return Preview(Scan(), drawn_plan(settings))
    found = checked(scan(settings.dataset), settings.dataset, deep=False)
    return Preview(found, plan_of_scan(found, settings) if found.train else None)


def plan_of_scan(found: Scan, settings: RunSettings) -> Plan:
    """The plan for a checked scan, less what is held out. Raises UserError for an image that cannot be read."""
    if settings.draws_its_pictures:
        return drawn_plan(settings)
    found = trained_part(found, settings.validation)
    samples = build_samples(found, settings, read_captions=False)
    return Plan.of(samples, settings, reg_images_found=sum(len(subset.images) for subset in found.reg))


def drawn_plan(settings: RunSettings) -> Plan:
    """The plan for pictures that the model draws itself, each shown once in an epoch."""
    batch = settings.images_per_batch
    drawn = FolderCount(name=settings.slider.target.strip(), repeats=1, images=PICTURES, samples=PICTURES)
    return replace(
        Plan.of([], settings),
        train=(drawn,),
        buckets={sides(settings.dataset.resolution): PICTURES},
        batches_per_epoch=-(-PICTURES // batch),
        drawn=True,
    )


def _counted(samples: Iterable[Sample]) -> tuple[FolderCount, ...]:
    folders: dict[object, list[Sample]] = {}
    for sample in samples:
        folders.setdefault((sample.subset.dataset, sample.subset.folder), []).append(sample)
    return tuple(
        FolderCount(
            name=same[0].subset.name,
            repeats=same[0].subset.repeats,
            images=len({sample.image.path for sample in same}),
            samples=len(same),
        )
        for same in folders.values()
    )


def _datasets(samples: Sequence[Sample], batch_size: int) -> tuple[DatasetCount, ...]:
    by_number: dict[int, list[Sample]] = {}
    for sample in samples:
        if sample.subset.dataset:
            by_number.setdefault(sample.subset.dataset, []).append(sample)
    return tuple(
        DatasetCount(
            number=number,
            resolution=" × ".join(map(str, sides(own[0].subset.options.resolution))),
            batch_size=size_of_batch(own[0], batch_size),
            samples=len(own),
            buckets=len(by_bucket(own)),
            batches=batches_per_epoch(own, batch_size),
        )
        for number, own in by_number.items()
    )


def _dataset_line(dataset: DatasetCount, language: Language) -> str:
    return text(
        "plan.dataset",
        language,
        number=dataset.number,
        resolution=dataset.resolution,
        batch=dataset.batch_size,
        samples=dataset.samples,
        buckets=dataset.buckets,
        batches=counted("plan.n_batches", dataset.batches, language),
    )


def _folder_line(folder: FolderCount, language: Language) -> str:
    images = counted("data.images", folder.images, language)
    return text(
        "plan.folder", language, name=folder.name, repeats=folder.repeats, images=images, samples=folder.samples
    )
