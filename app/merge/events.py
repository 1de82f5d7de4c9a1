"""Ties the fields of the Merge tab to what it says about them."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr

from app.drafts import save_draft
from app.i18n import language_of, t
from app.merge.blocks import line_after
from app.merge.files import Looks
from app.merge.form import (
    DEFAULTS,
    MOST_LORAS,
    after_choosing,
    draft_file,
    load_draft,
    rows_shown,
    visible,
    without_row,
)
from app.merge.jobs import JobEvents
from app.merge.page import (
    check,
    highest_rank,
    judged,
    method_choices,
    proposals,
    quick_check,
    said,
)
from app.merge.parts import Inputs, Parts, fresh
from app.page import Ui, quiet
from app.settled import Settled


class Newest:
    """What each open page wants measured, so that it is done once, and an answer that comes too late is known."""

    def __init__(self, keep: int = 200):
        self.keep = keep
        self._tokens: OrderedDict[str | None, tuple[str, bool]] = OrderedDict()
        """Page -> what it wants, and whether somebody is at it."""

    def tell(self, page: str | None, token: str) -> None:
        begun = self._tokens.get(page) == (token, True)
        self._tokens[page] = token, begun
        self._tokens.move_to_end(page)
        while len(self._tokens) > self.keep:
            self._tokens.popitem(last=False)

    def begin(self, page: str | None, token: str) -> bool:
        """Whether a token is the newest and nobody has begun with it; then the caller does."""
        if not token or self._tokens.get(page) != (token, False):
            return False
        self._tokens[page] = token, True
        return True

    def is_it(self, page: str | None, token: str) -> bool:
        return self._tokens.get(page, ("", False))[0] == token


def shown_or_not(key: str, on: bool, values: Mapping[str, Any]) -> dict[str, Any]:
    """An update that shows or hides a part. An empty number that is put back on the page would show 0."""
    empty = {"value": None} if on and key in DEFAULTS and values[key] is None else {}
    return gr.update(visible=on, **empty)


class Events:
    """The tab at work. Handlers get all fields and answer with updates of what changed."""

    def __init__(self, ui: Ui, parts: Parts):
        self.ui, self.parts, self.roots = ui, parts, ui.context.roots
        self.looks = Looks()
        self.newest = Newest()
        self.ready = gr.State(False)
        """True when the draft is on the page: before that, defaults must not overwrite it."""
        self.seen = gr.State({})
        """What this page shows already."""
        self.wanted = gr.State("")
        """What is to be measured; empty while something is missing or wrong."""
        self.jobs = JobEvents(ui, parts, self.looks)

    def connect(self) -> None:
        parts, fields = self.parts, set(self.parts.fields.values())
        changes = [component.change for component in fields if not isinstance(component, gr.State)]
        asked, shown = self.asks()
        self.changed = Settled(changes, "kb_merge_changed")
        self.measure_after(self.changed.then(self.refresh, asked, shown, **quiet(trigger_mode="always_last")))
        self.follow(self.ui.demo.load(self.restore, None, {*fields, self.ready}, **quiet()))
        parts.fields["what"].input(self.choose, fields, fields, **quiet())
        self.follow(parts.buttons["add"].click(self.add_row, fields, parts.fields["shown"], **quiet()))
        for row, built in parts.rows.items():
            self.follow(built.remove.click(partial(self.remove_row, row), fields, fields, **quiet()))
            box, line = built.fields[f"path{row}"], built.fields[f"weights{row}"]
            built.editor.select(self.edited, box, line, **quiet(trigger_mode="always_last"))
        self.jobs.connect(self.follow)

    def follow(self, event: Any) -> None:
        """Look at everything anew after an event that changes what no visible field shows."""
        self.changed.after(event)

    def asks(self) -> tuple[set[Any], set[Any]]:
        """What ``refresh`` gets and what it may change."""
        parts = self.parts
        shown = {*parts.boxes.values(), *parts.said.values(), parts.buttons["go"], self.seen, self.wanted}
        shown |= {parts.places[key] for key in ("summary", "energy")}
        shown |= {parts.fields[key] for key in ("folder", "name", "rank")}
        return {*parts.fields.values(), self.ready, self.jobs.attempted, self.seen}, shown

    def measure_after(self, event: Any) -> None:
        """The slow part follows in its own time.

        Not on the same triggers with "always_last": two of these call each other up for ever. Several at once do no
        harm, for all but the newest give up.
        """
        asked = {*self.parts.fields.values(), self.jobs.attempted, self.wanted}
        places = {self.parts.places[key] for key in ("summary", "energy")}
        event.then(self.measure, asked, places, **quiet(trigger_mode="multiple"))

    def restore(self, request: gr.Request) -> Inputs:
        """Put what the tab showed last time back; names of methods are in the language of the page."""
        kept = load_draft(draft_file())
        methods = gr.update(choices=method_choices(language_of(request)), value=kept["method"])
        # What is as it began is left alone: each field that is set makes the page ask again. But an empty number that
        # was never set would be shown as 0.
        other = {key: value for key, value in kept.items() if value is None or value != DEFAULTS[key]}
        return self.parts.shown(other) | {self.parts.fields["method"]: methods, self.ready: True}

    def refresh(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Say at once what fields and headers tell, keep it for the next visit, and ask for the slow part."""
        if not by_component[self.ready]:
            return {self.seen: gr.skip()}
        values, language = self.parts.values(by_component), language_of(request)
        save_draft(values, draft_file())
        found, attempted = self.looks.of(values, self.roots), by_component[self.jobs.attempted]
        quick = quick_check(values, found, self.roots, language)
        updates = self.updates(values, found) | {
            f"said.{key}": (self.parts.said[key], value) for key, value in said(values, found, language).items()
        }
        answer = fresh(updates, by_component[self.seen], self.seen)
        stamps = [(str(look.path), look.stamp) for look in found.values()]
        token = repr((values, stamps, quick.settings, attempted)) if quick.ready else ""
        self.newest.tell(request.session_hash, token)
        if not token:
            answer |= self.measured(judged(values, quick, self.roots, language, attempted=attempted))
        return answer | {self.wanted: token}

    def updates(self, values: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What is shown at all, and what stands in empty boxes."""
        parts = self.parts
        folder, name = proposals(values, self.roots)
        return {
            **{f"box.{key}": (parts.boxes[key], shown_or_not(key, on, values)) for key, on in visible(values).items()},
            "go": (parts.buttons["go"], gr.update(value=t(f"merge_tab.go.{values['what']}"))),
            "folder": (parts.fields["folder"], gr.update(placeholder=folder)),
            "name": (parts.fields["name"], gr.update(placeholder=name)),
            "highest": (parts.fields["rank"], gr.update(maximum=highest_rank(values, found))),
        }

    def measure(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """The slow part of ``refresh``. What something typed since then has made old is not shown."""
        token = by_component[self.wanted]
        if self.newest.begin(request.session_hash, token):
            values, language = self.parts.values(by_component), language_of(request)
            checked = check(values, self.looks.of(values, self.roots), self.roots, language)
            html = judged(values, checked, self.roots, language, attempted=by_component[self.jobs.attempted])
            if self.newest.is_it(request.session_hash, token):
                return self.measured(html)
        return {self.parts.places["summary"]: gr.skip()}

    def measured(self, html: Mapping[str, str]) -> Inputs:
        return {self.parts.places[key]: words for key, words in html.items()}

    def choose(self, by_component: Inputs) -> Inputs:
        values = self.parts.values(by_component)
        return self.parts.shown(after_choosing(values, values["what"]))

    def add_row(self, by_component: Inputs) -> int:
        return min(MOST_LORAS, rows_shown(self.parts.values(by_component)) + 1)

    def remove_row(self, row: int, by_component: Inputs) -> Inputs:
        return self.parts.shown(without_row(self.parts.values(by_component), row))

    def edited(self, typed: str, event: gr.EventData) -> Any:
        """The text line after somebody moved a bar or chose a preset."""
        look = self.looks.of(DEFAULTS | {"what": "bake", "path1": str(typed or "")}, self.roots).get("path1")
        line = line_after(event._data or {}, look.family) if look else None
        return gr.skip() if line is None else line
