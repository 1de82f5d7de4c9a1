"""The components of the Merge tab, by what they are for, and answering with those alone that change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from app.merge.form import checked
from app.widgets.lora_rows import LoraRow

Inputs = dict[Component, Any]


@dataclass
class Parts:
    """Filled in while the tab is laid out by app/tabs/merge.py; app/merge/events.py and app/merge/jobs.py use them."""

    fields: dict[str, Component] = field(default_factory=dict)
    """What somebody can set, by the keys of app/merge/form.py."""
    boxes: dict[str, Any] = field(default_factory=dict)
    """What is shown only where it belongs, by the keys of ``merge_form.visible``."""
    said: dict[str, Any] = field(default_factory=dict)
    """What follows from the fields at once: cards, editors, notes."""
    rows: dict[int, LoraRow] = field(default_factory=dict)
    buttons: dict[str, gr.Button] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)
    """Where what was measured, jobs and questions appear."""

    def values(self, by_component: Mapping[Component, Any]) -> dict[str, Any]:
        """What the tab shows, by key, out of a handler's inputs; what no field could hold is its default."""
        return checked({key: by_component[component] for key, component in self.fields.items()})

    def shown(self, values: Mapping[str, Any]) -> Inputs:
        """Updates that put values into the fields."""
        return {self.fields[key]: value for key, value in values.items()}


def fresh(updates: Mapping[str, tuple[Any, Any]], seen: Mapping[str, str], memory: gr.State) -> Inputs:
    """Of named (component, update) those that a page has not had yet, and what it has had then.

    Several updates of one component become one.
    """
    keys = {name: repr(update) for name, (_, update) in updates.items()}
    answer: Inputs = {memory: {**seen, **keys}}
    for name, (component, update) in updates.items():
        if seen.get(name) != keys[name]:
            answer[component] = _both(answer[component], update) if component in answer else update
    return answer


def _both(first: Any, second: Any) -> dict[str, Any]:
    """Two updates, or values, of one component."""
    return _as_update(first) | _as_update(second)


def _as_update(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) and given.get("__type__") == "update" else gr.update(value=given)
