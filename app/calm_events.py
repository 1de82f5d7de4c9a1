"""Events of the calm page: hiding and marking after a change, undoing, searching, and the model type that follows."""

from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.calm import Layout, differs, element_id, hits, level_in, look, reset
from app.family import PATH, family_name, followed
from app.form import values_shown
from app.i18n import language_of, say
from app.page import Ui, quiet
from lora_core.settings import RunSettings

Inputs = dict[Component, Any]


class Calm:
    """Ties the form to the switch of levels and the search box."""

    def __init__(self, ui: Ui, levels: gr.HTML, search: gr.HTML):
        self.ui, self.form, self.levels, self.search = ui, ui.form, levels, search
        self.layout = Layout.of(ui.form)
        self.by_id = {element_id(path): path for path in self.form.components}
        self.levels.value = look(values_shown(RunSettings()), level_in(None), self.layout, "en")

    def connect(self, demo: gr.Blocks) -> None:
        """Register the events of its own; what is shown after a change comes with the reports of ``ui.Live``."""
        fields = self.form.components
        demo.load(self.begin, None, self.levels, **quiet())
        chosen = {self.levels, *self.form.inputs}
        self.levels.select(self.choose, self.form.inputs, chosen, **quiet(trigger_mode="multiple"))
        self.search.select(self.find, self.form.inputs, self.search, **quiet(trigger_mode="always_last"))
        demo.load(self.greet, None, self.search, **quiet())
        base = fields["model.base"]
        of_model = {component for path, component in fields.items() if path.startswith("model.")}
        base.change(self.follow, of_model, of_model, **quiet(trigger_mode="always_last"))

    def begin(self, request: gr.Request) -> dict[str, Any]:
        """What is seen until the kept draft is on the page."""
        return self.looks(values_shown(RunSettings()), request)

    def looks(self, values: dict[str, Any], request: gr.Request) -> dict[str, Any]:
        return look(values, level_in(request.cookies), self.layout, language_of(request))

    def choose(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> Inputs:
        """A click on a level, which the browser has remembered by now, or on a mark that undoes changes."""
        values, data = self.form.values(by_component), event._data or {}
        undone: dict[str, Any] = {}
        if data.get("action") == "undo":
            paths = [self.by_id[name] for name in data.get("fields") or () if name in self.by_id]
            undone = reset(values, [path for path in paths if differs(path, values)])
        return self.form.show(undone) | {self.levels: self.looks(values | undone, request)}

    def find(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        query = str((event._data or {}).get("query") or "")[:200]
        language = language_of(request)
        found = hits(query, self.form.values(by_component), self.layout, language)
        return {"query": query, "hits": found, "words": _search_words(request)}

    def greet(self, request: gr.Request) -> dict[str, Any]:
        return {"query": "", "hits": [], "words": _search_words(request)}

    def follow(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """The model type as the header of the file says, with a word about it."""
        values = {path: by_component[c] for path, c in self.form.components.items() if c in by_component}
        changed = followed(values)
        if PATH in changed:
            language = language_of(request)
            toast.info(say("family.follows", language, family=family_name(changed[PATH], language)))
        return self.form.show(changed) if changed else {self.form.components[PATH]: gr.skip()}


def _search_words(request: gr.Request) -> dict[str, str]:
    language = language_of(request)
    return {name: say(f"search.{name}", language) for name in ("placeholder", "nothing")}
