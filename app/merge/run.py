"""Jobs that the Merge tab started: finding them again, how far they are, what they made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.i18n import say
from app.run_view import RunView, Views
from app.shared_files import thumbnail
from lora_core import jobs
from lora_core.events import FileSaved, RunFailed, Stop
from lora_core.i18n import Language
from lora_core.runs import RunFolder, runs_root
from lora_core.settings.tools import ToolSettings


@dataclass(frozen=True)
class Progress:
    """A job as the tab shows it."""

    run: RunFolder
    view: RunView
    state: str

    @property
    def ended(self) -> bool:
        return self.state in jobs.ENDED

    @property
    def files(self) -> list[FileSaved]:
        return [saved for saved in self.view.files if saved.kind != "picture"]

    @property
    def pictures(self) -> list[FileSaved]:
        return [saved for saved in self.view.files if saved.kind == "picture"]

    @property
    def failure(self) -> RunFailed | None:
        return self.view.ended if isinstance(self.view.ended, RunFailed) else None

    @property
    def version(self) -> tuple:
        """Changes when there is something new to show."""
        return (self.run.path.name, self.state, self.view.read, self.view.stopping)


def start(settings: ToolSettings) -> str:
    """Put a job in line; the name of its run. Raises UserError when Kumakobo's folder can't be written."""
    return jobs.start(settings).path.name


def stop(name: str) -> None:
    """Take a job out of the line, or end it; nothing it did not finish is left behind."""
    run = find(name)
    if run is not None and jobs.state(run) not in jobs.ENDED:
        jobs.send(run, Stop(save=False))


def find(name: Any) -> RunFolder | None:
    """The run of a name that was kept; None when it is gone, or no name of a run."""
    if not isinstance(name, str) or not name or Path(name).name != name or "\0" in name:
        return None
    run = RunFolder(runs_root() / name)
    return run if run.settings.is_file() else None


def progress(views: Views, name: Any) -> Progress | None:
    """How far a job is, after bringing the line of jobs up to date."""
    run = find(name)
    if run is None:
        return None
    jobs.advance()
    return Progress(run, views.view(run), jobs.state(run))


def result(found: Progress | None) -> Path | None:
    """The file that a job finished with, if it is still there."""
    if found is None or found.state != "finished" or not found.files:
        return None
    path = found.files[-1].path
    return path if path.exists() else None


def gallery(found: Progress | None, language: Language) -> dict[str, Any] | None:
    """The pictures of a preview as the sample gallery shows them; None hides it."""
    if found is None or not found.pictures:
        return None
    items = [item for saved in found.pictures if (item := picture_item(saved))]
    words = ("all_prompts", "empty", "close", "previous", "next", "prompt")
    return {
        "groups": [{"title": "", "step": 0, "items": items}],
        "prompts": [],
        "words": {word: say(f"monitor.samples.{word}", language) for word in words}
        | {"title": say("merge_tab.preview.pictures", language)},
    }


def picture_item(saved: FileSaved) -> dict[str, Any] | None:
    """A picture as the gallery shows it; None when it can't be read."""
    addresses = thumbnail(saved.path)
    if addresses is None:
        return None
    small, large = addresses
    prompt, index = str(saved.facts.get("prompt", "")), saved.facts.get("index", 0)
    return {"small": small, "large": large, "prompt": prompt, "index": index, "file": saved.path.name}
