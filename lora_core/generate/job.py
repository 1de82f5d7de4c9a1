"""``kumakobo generate``: pictures of prompts, with LoRAs that the prompts or the command name."""

from collections.abc import Iterator
from pathlib import Path

from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, StageChanged
from lora_core.generate.picture import save_png
from lora_core.generate.request import Shot, check_loras, model_of, shots
from lora_core.generate.shelf import Shelf
from lora_core.runs import RunFolder
from lora_core.settings.generate import GenerateSettings, PictureSettings


def generate(
    settings: GenerateSettings, run: RunFolder | None = None, shelf: Shelf | None = None
) -> Iterator[EventBase]:
    """Draws every prompt ``count`` times. Raises UserError for what can't be drawn, before the model is loaded."""
    yield StageChanged(stage="checking")
    wanted, model, folder = shots(settings), model_of(settings), folder_of(settings, run)
    check_loras((lora for shot in wanted for lora in shot.loras), model)
    yield StageChanged(stage="loading_model")
    with (shelf or Shelf()).studio(model) as studio:
        number = next_number(folder)
        for done, shot in enumerate(wanted):
            yield StageChanged(stage="drawing", done=done, total=len(wanted))
            path = save_png(studio.draw(shot), folder / f"{number + done:05d}-{shot.seed}.png")
            yield FileSaved(path=path, kind="picture", facts=facts_of(shot, done))
    yield StageChanged(stage="drawing", done=len(wanted), total=len(wanted))


def folder_of(settings: PictureSettings, run: RunFolder | None) -> Path:
    """Where the pictures go. Raises UserError when no folder is named and the job has none."""
    if settings.output is not None:
        return settings.output
    if run is None:
        raise UserError("generate.no_output")
    return run.path


def next_number(folder: Path) -> int:
    """One more than the largest number in the folder; pictures are never written over."""
    names = [path.name[:5] for path in folder.glob("[0-9]*-*.png")] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=-1) + 1


def facts_of(shot: Shot, index: int) -> dict[str, object]:
    """What the page shows beside a picture."""
    return {"prompt": shot.prompt, "index": index, "seed": shot.seed}
