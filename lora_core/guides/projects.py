"""Projects of the guided flows: small files under the app's home, one a project. Torch-free.

A project holds no result: those are read from the run folders, which are the truth.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field, ValidationError

from lora_core.errors import UserError
from lora_core.events import Event, RunFailed, RunFinished
from lora_core.runs import home
from lora_core.settings.base import FileName, Settings
from lora_core.settings.files import write_text

Outcome = Literal["none", "running", "finished", "stopped", "failed"]


class Project(Settings):
    """What all flows keep of a project."""

    name: FileName = Field(min_length=1, max_length=80)
    created: float = 0.0
    """Seconds since 1970."""


P = TypeVar("P", bound=Project)


@dataclass(frozen=True)
class Projects(Generic[P]):
    """The projects of one flow."""

    flow: str
    """Name of the folder that holds them."""
    kind: type[P]

    @property
    def folder(self) -> Path:
        return home() / "guides" / self.flow

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def new(self, name: str, **values: Any) -> P:
        """A new project, saved. Raises UserError for a name that is taken, empty, or no file name."""
        try:
            known = Project(name=name.strip(), created=time.time())
        except ValidationError:
            raise UserError("guides.project_name", name=name.strip()) from None
        if self.file(known.name).exists():
            raise UserError("guides.project_taken", name=known.name)
        return self.save(self.kind.model_validate(known.model_dump() | values))

    def save(self, project: P) -> P:
        """Write the project and give it back. Raises UserError where it can't be written."""
        write_text(self.file(project.name), project.model_dump_json(indent=2) + "\n")
        return project

    def load(self, name: str) -> P:
        """A project by its name. Raises UserError for one that is gone or can't be read."""
        try:
            path = self.file(Project(name=name).name)
        except ValidationError:
            raise UserError("guides.project_gone", name=name) from None
        if not path.is_file():
            raise UserError("guides.project_gone", name=name)
        try:
            return self.kind.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError("guides.project_broken", path=path) from error

    def names(self) -> list[str]:
        """All of them, the one worked on last first."""
        found = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [path.stem for path in found]


def ending(events: list[Event]) -> RunFinished | RunFailed | None:
    """How a run ended; None while it goes on."""
    return next((event for event in reversed(events) if isinstance(event, RunFinished | RunFailed)), None)


def outcome_of(ended: RunFinished | RunFailed | None) -> Outcome:
    if ended is None:
        return "running"
    if isinstance(ended, RunFailed):
        return "failed"
    return "finished" if ended.reason == "completed" else "stopped"
