"""Baking LoRAs into a checkpoint, and taking them out again: tensor by tensor, with little memory, at disk speed.

Taking out subtracts the very numbers that were added. Sums are formed in float64 and rounded once, so a weight comes
back bit for bit unless baking had pushed it past a power of two, where the format's grid is coarser; then it may be off
by one unit in its last place. Only infinite or saturated numbers would not come back; both are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, StageChanged, warned
from lora_core.io.arrays import FLOATS, PRECISIONS, Array, byte_size, encode, overflows, writing
from lora_core.io.kinds import FAMILY_NAMES
from lora_core.io.tensors import TensorInfo
from lora_core.merge import baked
from lora_core.merge.bake import Plan, changed, irreversible, plan
from lora_core.merge.checkpoint import Checkpoint, TensorFile, open_checkpoint
from lora_core.merge.combine import Weighted, load_sources
from lora_core.merge.folders import check_folder, folder_size, write_folder
from lora_core.merge.outputs import check_output
from lora_core.settings.tools import ApplySettings

MB = 1_000_000
"""Progress is counted in these."""


def apply(settings: ApplySettings) -> Iterator[EventBase]:
    """Reads, adds, writes. Raises UserError; the checkpoint is untouched and nothing half written is left behind."""
    yield StageChanged(stage="reading")
    job = Job.of(settings)
    yield from job.warnings()
    output = job.check_output()
    total = job.size() // MB
    done = 0
    yield StageChanged(stage="writing", done=0, total=total)
    steps = write_folder(job, output) if job.model.is_folder else job.write(job.model.files[0], output)
    for count in steps:
        before, done = done, done + count
        if before // (64 * MB) != done // (64 * MB):
            yield StageChanged(stage="writing", done=done // MB, total=total)
    yield StageChanged(stage="writing", done=total, total=total)
    facts = {"tensors": len(job.plan), "loras": len(job.sources), "size": job.size()}
    yield FileSaved(path=output, kind="checkpoint", facts=facts)


@dataclass(frozen=True)
class Job:
    """A checked job, ready to write. Checking has read headers and LoRAs, nothing else."""

    settings: ApplySettings
    model: Checkpoint
    sources: Sequence[Weighted]
    plan: Plan

    @classmethod
    def of(cls, settings: ApplySettings) -> "Job":
        """Raises UserError for whatever cannot be done."""
        if settings.checkpoint is None:
            raise UserError("apply.no_checkpoint")
        sources = load_sources(settings.loras)
        model = open_checkpoint(settings.checkpoint)
        _check_family(model, sources)
        if settings.reverse and (found := irreversible(sources)):
            raise UserError("apply.irreversible", lora=found[0].file.path.name, layer=found[1])
        planned = plan(model, sources)
        if not planned:
            raise UserError("apply.nothing")
        return cls(settings, model, sources, planned)

    def warnings(self) -> Iterator[EventBase]:
        for source in self.sources:
            if junk := source.file.junk:
                values = {"lora": source.file.path.name, "count": len(junk), "example": junk[0]}
                yield warned("loras", "apply.junk", values)
        if self.settings.reverse:
            for source in baked.not_recorded(self.model.files, self.sources, self.plan):
                yield warned(
                    "loras", "apply.not_recorded", {"lora": source.file.path.name, "ratio": source.source.ratio}
                )

    def check_output(self) -> Path:
        """The path to write. Raises UserError as outputs.check_output, and for a folder that holds other things."""
        folder = self.model.is_folder
        sources = [self.model.path, *(source.file.path for source in self.sources)]
        output = check_output(self.settings, sources, self.size(), folder=folder)
        if folder:
            check_folder(output, sources)
        return output

    def size(self) -> int:
        """Bytes of the result, but for headers."""
        return folder_size(self) if self.model.is_folder else self.size_of(self.model.files[0])

    def size_of(self, file: TensorFile) -> int:
        return sum(map(byte_size, self.infos(file).values()))

    def infos(self, file: TensorFile) -> dict[str, TensorInfo]:
        """Formats and shapes in the result."""
        return {key: TensorInfo(self._format(info.dtype), info.shape) for key, info in file.tensors.items()}

    def _format(self, dtype: str) -> str:
        precision = self.settings.precision
        return dtype if precision == "same" or dtype not in FLOATS else PRECISIONS[precision]

    def changes(self, file: TensorFile) -> bool:
        """Whether a file will not be what it was."""
        return any(path == file.path for path, _ in self.plan) or self.infos(file) != file.tensors

    def write(self, file: TensorFile, path: Path) -> Iterator[int]:
        """Writes a file with its changes; yields the bytes written of each tensor."""
        infos = self.infos(file)
        return writing(infos, lambda key: self._pieces(file, key, infos[key].dtype), self.metadata(file), path)

    def metadata(self, file: TensorFile) -> Mapping[str, str]:
        """The file's own entries, with what was baked in noted or struck out."""
        if not any(path == file.path for path, _ in self.plan):
            return file.metadata
        metadata = (baked.without if self.settings.reverse else baked.noted)(file.metadata, self.sources)
        return baked.minimal(metadata) if self.settings.no_metadata else metadata

    def _pieces(self, file: TensorFile, key: str, dtype: str) -> Iterator[Array]:
        """The bytes of a tensor in the result."""
        edits = self.plan.get((file.path, key))
        if edits:
            pieces = changed(edits, -1 if self.settings.reverse else 1)
        elif dtype == file.tensors[key].dtype:
            yield from file.raw(key)
            return
        else:
            pieces = (file.rows(key, *rows) for rows in file.pieces(key))
        for values in pieces:
            if overflows(values, dtype):
                raise UserError("apply.overflow", path=file.path, tensor=key, format=_SPOKEN.get(dtype, dtype))
            yield encode(values, dtype)


_SPOKEN = {"F16": "fp16", "F8_E4M3": "fp8 (e4m3)", "F8_E5M2": "fp8 (e5m2)"}


def _check_family(model: Checkpoint, sources: Sequence[Weighted]) -> None:
    """Raises UserError for a LoRA of another family than the checkpoint's."""
    lora = sources[0].file
    if lora.family != model.family:
        raise UserError(
            "apply.other_family",
            lora=lora.path.name,
            lora_family=FAMILY_NAMES[lora.family],
            path=model.path.name,
            family=FAMILY_NAMES[model.family],
        )
