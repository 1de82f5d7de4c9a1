"""A job on LoRA files in the terminal: what it does, how far it is, what it wrote."""

import sys
from typing import TextIO

from tqdm import tqdm

from lora_core import proof_verdict, rate_range
from lora_core.events import (
    EventBase,
    FileSaved,
    ProofDone,
    RateRangeDone,
    RunFailed,
    RunFinished,
    StageChanged,
    ToolStarted,
    Warned,
)
from lora_core.i18n import Language, text
from lora_core.settings.tools import ToolSettings
from lora_core.tools import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, events_of


class ToolConsole:
    """Shows events as they come; on a terminal with a bar, in a log file in lines."""

    def __init__(self, language: Language = "en", out: TextIO | None = None):
        self.language = language
        self.out = out or sys.stdout
        self.bar: tqdm | None = None
        self.stage = ""
        self.stopped = "tools.stopped"
        """What to say when the job is stopped now."""

    def say(self, line: str) -> None:
        self.close()
        print(line, file=self.out, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def show(self, event: EventBase) -> None:
        match event:
            case ToolStarted():
                for line in event.summary.get(self.language, []):
                    self.say(f"  {line}")
            case StageChanged():
                self.show_stage(event)
            case Warned():
                self.say(f"! {event.message[self.language]}")
            case FileSaved():
                self.stopped = "tools.stopped_kept" if event.kind == "picture" else self.stopped
                self.say(text("tools.saved", self.language, path=event.path, facts=facts_words(event, self.language)))
            case RateRangeDone():
                for line in rate_range.lines(event, self.language):
                    self.say(line)
            case ProofDone():
                for line in proof_verdict.lines(event, self.language):
                    self.say(f"  {line}")
            case RunFinished(reason="stopped"):
                self.say(text(self.stopped, self.language))
            case RunFailed():
                self.close()
                print(event.message[self.language], file=sys.stderr, flush=True)

    def show_stage(self, event: StageChanged) -> None:
        if event.stage != self.stage:
            self.close()
            self.stage = event.stage
        if not event.total or not self.out.isatty():
            return
        if self.bar is None:
            name = text(f"tools.stage.{event.stage}", self.language)
            self.bar = tqdm(total=event.total, desc=name, file=self.out, leave=False)
        self.bar.n = event.done
        self.bar.refresh()


def facts_words(event: FileSaved, language: Language) -> str:
    """Rank, layers and size of a written file, as far as they were told."""
    facts, parts = event.facts, []
    if "rank_max" in facts:
        low, high = facts.get("rank_min", 0), facts["rank_max"]
        rank = f"{high}" if low == high else f"{low}-{high}"
        parts.append(text("tools.facts.rank", language, rank=rank, layers=facts.get("layers", 0)))
    if "layers_dropped" in facts:
        parts.append(text("tools.facts.cleaned", language, junk=facts["junk"], layers=facts["layers_dropped"]))
    if "seed" in facts:
        parts.append(text("tools.facts.seed", language, seed=facts["seed"]))
    if facts.get("size"):
        parts.append(f"{facts['size'] / 1e6:.1f} MB")
    return ", ".join(parts)


def run_in_terminal(settings: ToolSettings, language: Language) -> int:
    """Do a job; returns the exit code. Ctrl-C leaves no half-written file."""
    console = ToolConsole(language)
    code = EXIT_OK
    steps = events_of(settings, None, lambda: False)
    try:
        for event in steps:
            console.show(event)
            if isinstance(event, RunFailed):
                code = EXIT_FAILED
    except KeyboardInterrupt:
        steps.close()
        console.say(text(console.stopped, language))
        return EXIT_STOPPED
    finally:
        console.close()
    return code
