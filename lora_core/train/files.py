"""Names of the files a run writes, as the field knows them, and which old ones it removes. Torch-free."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lora_core.settings import SaveSettings


def final_file(save: SaveSettings) -> Path:
    return _folder(save) / f"{save.output_name}.safetensors"


def epoch_file(save: SaveSettings, epoch: int) -> Path:
    """``epoch`` counts finished epochs from 1."""
    return _folder(save) / f"{save.output_name}-{epoch:06d}.safetensors"


def step_file(save: SaveSettings, step: int) -> Path:
    return _folder(save) / f"{save.output_name}-step{step:08d}.safetensors"


def state_folder(lora: Path) -> Path:
    """The training state that belongs to a LoRA file: the same name with -state."""
    return lora.with_name(f"{lora.stem}-state")


def average_file(lora: Path) -> Path:
    """The running average of a LoRA's weights, where both are saved: the same name with -ema."""
    return lora.with_name(f"{lora.stem}-ema.safetensors")


def best_file(save: SaveSettings) -> Path:
    """The LoRA of the epoch that did best on held-out pictures."""
    return _folder(save) / f"{save.output_name}-best.safetensors"


def sample_folder(save: SaveSettings) -> Path:
    return _folder(save) / "sample"


def settings_file(lora: Path) -> Path:
    """The exact settings of a run, beside its LoRA."""
    return lora.with_suffix(".json")


def files_in_the_way(save: SaveSettings) -> list[Path]:
    """Existing files that a run of this name might write."""
    if save.output_dir is None or not save.output_dir.is_dir():
        return []
    name = save.output_name
    return sorted(
        path
        for path in save.output_dir.iterdir()
        if path.name in {f"{name}{end}" for end in (".safetensors", "-ema.safetensors", "-best.safetensors", ".json")}
        or (path.suffix == ".safetensors" and _is_numbered(path.stem.removesuffix("-ema"), name))
    )


def free_name(save: SaveSettings) -> str:
    """The output name, or with -v2, -v3 ... behind it if files of that name are there."""
    base, number, name = save.output_name, 1, save.output_name
    while files_in_the_way(save.model_copy(update={"output_name": name})):
        number += 1
        name = f"{base}-v{number}"
    return name


def _is_numbered(stem: str, name: str) -> bool:
    suffix = stem.removeprefix(f"{name}-")
    return suffix != stem and suffix.removeprefix("step").isdecimal()


def _folder(save: SaveSettings) -> Path:
    if save.output_dir is None:
        raise ValueError("save.output_dir is not set")
    return save.output_dir


@dataclass
class Retention:
    """Keeps the last n of the saves this run made along the way; the final one is never removed."""

    keep_last: int | None
    saved: list[Path] = field(default_factory=list)

    def add(self, lora: Path) -> list[Path]:
        """Note a save; gives the files removed for it."""
        if lora in self.saved:
            self.saved.remove(lora)
        self.saved.append(lora)
        if self.keep_last is None:
            return []
        old, self.saved = self.saved[: -self.keep_last], self.saved[-self.keep_last :]
        for path in old:
            path.unlink(missing_ok=True)
            average_file(path).unlink(missing_ok=True)
            shutil.rmtree(state_folder(path), ignore_errors=True)
        return old
