"""Ties the fields of the Model test tab to its job."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.drafts import save_draft
from app.folder_view import is_allowed
from app.i18n import language_of, say
from app.merge import run as job
from app.merge.parts import fresh
from app.merge.values import FormError, error_words
from app.merge.view import problems_html, progress_html
from app.model_test.form import (
    DEFAULTS,
    checked,
    draft_file,
    is_busy,
    load_draft,
    of_latest_run,
    of_run_folder,
    proof_settings_of,
    settings_of,
    visible,
)
from app.model_test.history import earlier
from app.model_test.view import cell_at, gallery, loaded_html, lora_of, results_html, strength_of
from app.page import TABS, Ui, quiet
from app.settled import Settled
from app.tabs.monitor import chosen_run
from lora_core import jobs
from lora_core.errors import UserError
from lora_core.generate.keep import keep
from lora_core.merge.describe import describe
from lora_core.runs import RunFolder, list_runs
from lora_core.settings.tools import ToolSettings

Inputs = dict[Component, Any]
LEADING_HERE = ("monitor_grid", "monitor_run", "guide_run")
"""On the monitor: the button that leads here, and which run is shown; on the Guide tab: the panel of a run."""


GUIDE = "guide_slider_grid"
"""The button of the concept slider on the Guide tab."""


@dataclass
class Parts:
    """The components of the tab, filled in while it is laid out."""

    fields: dict[str, Component] = field(default_factory=dict)
    boxes: dict[str, Any] = field(default_factory=dict)
    """What is shown only where it belongs."""
    buttons: dict[str, gr.Button] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)

    def values(self, by_component: Inputs) -> dict[str, Any]:
        return checked({key: by_component[component] for key, component in self.fields.items()})


class Events:
    """The tab at work. Handlers get all fields and answer with updates of what changed."""

    def __init__(self, ui: Ui, parts: Parts):
        self.ui, self.parts, self.roots = ui, parts, ui.context.roots
        self.ready = gr.State(False)
        """True when the draft is on the page: before that, defaults must not overwrite it."""
        self.seen = gr.State({})
        """Which parts this page shows already. What is shown anew tells of a change, which would ask again for ever."""
        self.polled = gr.State({})
        self.timer = gr.Timer(1)

    def connect(self) -> None:
        parts, fields = self.parts, set(self.parts.fields.values())
        boxes, problems = set(parts.boxes.values()), parts.places["problems"]
        shown = {*boxes, self.seen}
        restored = self.ui.demo.load(self.restore, None, {*fields, self.ready}, **quiet())
        changes = [component.change for component in fields if not isinstance(component, gr.State)]
        changed = Settled(changes, "kb_model_test_changed")
        changed.then(self.keep, {*fields, self.ready, self.seen}, shown, **quiet(trigger_mode="always_last"))
        changed.after(restored)
        started = {parts.fields["run"], problems, self.timer}
        pressed = parts.buttons["go"].click(self.go, fields, started, **quiet(queue=True, trigger_mode="once"))
        pressed.then(self.poll, *self._polls(), **quiet())
        proving = parts.buttons["proof"].click(self.prove, fields, started, **quiet(queue=True, trigger_mode="once"))
        proving.then(self.poll, *self._polls(), **quiet())
        parts.buttons["cancel"].click(job.stop, parts.fields["run"], None, **quiet())
        chosen = parts.places["pictures"].select(self.keep_epoch, parts.fields["run"], None, **quiet(queue=True))
        chosen.then(self.poll, *self._polls(), **quiet())
        parts.buttons["latest"].click(self.latest, None, {*fields, problems}, **quiet())
        self.ui.demo.load(lambda: gr.Timer(active=True), None, self.timer, **quiet())
        self.timer.tick(self.poll, *self._polls(), **quiet())
        self.ui.tabs.select(self.opened, None, self.timer, **quiet())
        freed = parts.places["loaded"].select(self.free, None, None, **quiet(queue=True, trigger_mode="once"))
        freed.then(self.poll, *self._polls(), **quiet())
        self.connect_monitor()
        self.connect_guide()
        self.connect_history()

    def connect_history(self) -> None:
        """Earlier jobs are listed when the page is opened or a job begins, and shown as if just drawn."""
        earlier, run = self.parts.places["earlier"], self.parts.fields["run"]
        gr.on([self.ui.demo.load, run.change], self.list_earlier, None, earlier, **quiet())
        picked = earlier.input(lambda chosen: chosen, earlier, run, **quiet())
        picked.then(self.poll, *self._polls(), **quiet())

    def connect_monitor(self) -> None:
        """Monitor and guide are laid out before, and their parts are known by name only."""
        found = {block.elem_id: block for block in self.ui.demo.blocks.values() if block.elem_id in LEADING_HERE}
        button, run, guide = (found[elem_id] for elem_id in LEADING_HERE)
        outputs = {*self.parts.fields.values(), self.parts.places["problems"], self.ui.tabs}
        button.click(self.of_shown_run, run, outputs, **quiet(queue=True, trigger_mode="once"))
        guide.submit(self.of_guide, None, outputs, **quiet(queue=True, trigger_mode="once"))

    def connect_guide(self) -> None:
        """The guide of concept sliders leads here once its LoRA is trained."""
        button = next(block for block in self.ui.demo.blocks.values() if block.elem_id == GUIDE)
        outputs = {*self.parts.fields.values(), self.parts.places["problems"], self.ui.tabs}
        button.click(self.of_newest_run, None, outputs, **quiet(queue=True, trigger_mode="once"))

    def _polls(self) -> tuple[set[Any], set[Any]]:
        parts = self.parts
        places = {parts.places[name] for name in ("progress", "pictures", "results", "loaded")}
        buttons = {parts.buttons[name] for name in ("cancel", "go", "proof")}
        return {parts.fields["run"], self.polled}, {*places, *buttons, self.timer, self.polled}

    def restore(self) -> Inputs:
        """Put what the tab showed last time back. An empty number that was never set would be shown as 0."""
        kept = load_draft(draft_file())
        other = {key: value for key, value in kept.items() if value is None or value != DEFAULTS[key]}
        return {**self._shown(other), self.ready: True}

    def keep(self, by_component: Inputs) -> Inputs:
        """Show what belongs to the choice, and keep what was filled in for the next visit."""
        if not by_component[self.ready]:
            return {self.seen: gr.skip()}
        values = self.parts.values(by_component)
        save_draft(values, draft_file())
        boxes = {key: (self.parts.boxes[key], gr.update(visible=on)) for key, on in visible(values).items()}
        return fresh(boxes, by_component[self.seen], self.seen)

    def latest(self, request: gr.Request) -> Inputs:
        """Fill in a grid of the newest training."""
        found = of_latest_run()
        if found is None:
            words = problems_html([say("model_test.no_run", language_of(request))])
            return {self.parts.places["problems"]: words}
        return {**self._shown(found), self.parts.places["problems"]: ""}

    def of_newest_run(self, request: gr.Request) -> Inputs:
        """Fill in a grid of the newest training, and lead here; or say that there is none."""
        found = of_latest_run()
        if found is None:
            toast.warn(say("model_test.no_run", language_of(request)))
            return {self.parts.places["problems"]: gr.skip()}
        return {**self._shown(found), self.parts.places["problems"]: "", **self.ui.go_to("model_test")}

    def list_earlier(self, request: gr.Request) -> dict[str, Any]:
        choices = earlier(language_of(request))
        return gr.update(choices=choices, visible=bool(choices))

    def of_shown_run(self, choice: str, request: gr.Request) -> Inputs:
        """Fill in a grid of the run that the monitor shows, and lead here; or say why there is none."""
        return self.of_run(chosen_run(choice, list_runs()), request)

    def of_guide(self, event: gr.EventData, request: gr.Request) -> Inputs:
        """The same for the run that the guide shows."""
        return self.of_run(job.find((event._data or {}).get("run")), request)

    def of_run(self, run: RunFolder | None, request: gr.Request) -> Inputs:
        try:
            found = of_run_folder(run)
        except (FormError, UserError) as error:
            toast.warn(error_words(error, language_of(request)))
            return {self.parts.places["problems"]: gr.skip()}
        return {**self._shown(found), self.parts.places["problems"]: "", **self.ui.go_to("model_test")}

    def go(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Draw what the tab describes."""
        return self.start(by_component, request, settings_of)

    def prove(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Find out whether the LoRA does anything."""
        return self.start(by_component, request, proof_settings_of)

    def start(self, by_component: Inputs, request: gr.Request, settings_for: Callable[..., ToolSettings]) -> Inputs:
        """Start a job, or say what stands in the way."""
        values, language = self.parts.values(by_component), language_of(request)
        problems = self.parts.places["problems"]
        if is_busy(values["run"]):
            return {problems: problems_html([say("merge_tab.busy", language)])}
        try:
            settings = settings_for(values, self.roots)
            if found := describe(settings).problems:
                return {problems: problems_html([error_words(problem, language) for problem in found])}
            name = job.start(settings)
        except (FormError, UserError) as error:
            return {problems: problems_html([error_words(error, language)])}
        save_draft(values | {"run": name}, draft_file())
        return {self.parts.fields["run"]: name, problems: "", self.timer: gr.Timer(active=True)}

    def keep_epoch(self, run: str, request: gr.Request, event: gr.EventData) -> None:
        """Copy the LoRA file of the picture that was chosen, under the name that was given with it."""
        data, language = event._data or {}, language_of(request)
        cell = cell_at(job.progress(self.ui.views, run), data.get("index"))
        lora = None if cell is None else lora_of(cell)
        if cell is None or lora is None or not is_allowed(lora, self.roots):
            toast.warn(say("model_test.keep.none", language))
            return
        try:
            path = keep(lora, str(data.get("name", "")), job.find(run), strength_of(cell))
        except UserError as error:
            toast.warn(error_words(error, language))
            return
        toast.info(say("model_test.keep.done", language, source=lora.name, path=path))

    def opened(self, event: gr.SelectData) -> Any:
        """Look again: something may have been loaded for the pictures of another tab, or freed."""
        return gr.Timer(active=True) if event.index == TABS.index("model_test") else gr.skip()

    def free(self, request: gr.Request) -> None:
        """Give the memory of the model back."""
        if not jobs.free_memory():
            toast.warn(say("model_test.free.busy", language_of(request)))

    def poll(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Look at the job and at what is in memory; the clock stops when there is neither."""
        parts, language = self.parts, language_of(request)
        found = job.progress(self.ui.views, by_component[parts.fields["run"]])
        busy = found is not None and not found.ended
        model = jobs.loaded_model()
        updates: dict[str, tuple[Any, Any]] = {
            "progress": (parts.places["progress"], progress_html(found, language)),
            "pictures": (parts.places["pictures"], gallery(found, language)),
            "results": (parts.places["results"], results_html(found, language)),
            "loaded": (parts.places["loaded"], loaded_html(model, language, busy=busy)),
            "cancel": (parts.buttons["cancel"], gr.update(visible=busy)),
            "go": (parts.buttons["go"], gr.update(interactive=not busy)),
            "proof": (parts.buttons["proof"], gr.update(interactive=not busy)),
        }
        answer = fresh(updates, by_component[self.polled], self.polled)
        return answer if busy or model else answer | {self.timer: gr.Timer(active=False)}

    def _shown(self, values: dict[str, Any]) -> Inputs:
        return {self.parts.fields[key]: value for key, value in values.items()}
