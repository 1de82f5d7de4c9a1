"""Binds Gradio components to the fields of RunSettings.

The page says where a field goes; the settings say what it is. ``read`` and ``write`` are derived from the placing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app.drafts import read_draft
from app.i18n import t_choice, t_help, t_label
from lora_core.settings import RunSettings, applies
from lora_core.settings.fields import SettingField, chooser_of, fields_of, unions_of, values_of
from lora_core.settings.overlay import nest, settings_from
from lora_core.settings.problems import SettingsError

_LINES = {"sample.prompts": 6, "network.base_weights": 2, "save.description": 3, "optimizer.args": 2}
"""Texts of more than one line, and how many lines they show at least."""

Values = Mapping[str, Any]
"""What the page shows, by dotted path; it need not be legal."""


class Form:
    """The components that edit settings, by the dotted path of the field each one edits."""

    def __init__(self) -> None:
        self.components: dict[str, Component] = {}
        self.tab_of: dict[str, str] = {}
        """Dotted path -> id of the tab on which the field was placed."""
        self.placing = ""
        """Id of the tab that is being laid out."""

    def field(self, path: str, **options: Any) -> Component:
        """Place the component of one field here; options go to the Gradio constructor. A field has one place."""
        if path in self.components:
            raise ValueError(f"{path}: placed twice")
        self.components[path] = component_for(fields_of()[path], **options)
        self.tab_of[path] = self.placing
        return self.components[path]

    @property
    def inputs(self) -> set[Component]:
        """All components, as ``inputs`` of a handler that gets a dict keyed by component."""
        return set(self.components.values())

    def values(self, by_component: Mapping[Component, Any]) -> dict[str, Any]:
        """What the page shows, by path, out of a handler's dict of inputs."""
        return {path: by_component[component] for path, component in self.components.items()}

    def write(self, settings: RunSettings, before: Values) -> dict[Component, Any]:
        """Updates that put settings on a page that shows ``before``, for a handler whose outputs are ``inputs``."""
        return self.show_changes(before, values_shown(settings))

    def show(self, values: Values) -> dict[Component, Any]:
        """Updates that put values into the components; which of them are seen is up to app/calm.py."""
        updates: dict[Component, Any] = {}
        for path, component in self.components.items():
            if path in values:
                updates[component] = gr.update(value=for_component(fields_of()[path], values[path]))
        return updates

    def show_changes(self, before: Values, after: Values) -> dict[Component, Any]:
        """Updates for the values alone that are others now: each costs the browser time, and may undo some typing."""
        other = {p: v for p, v in after.items() if p not in before or before[p] != for_component(fields_of()[p], v)}
        return self.show(other) or {next(iter(self.components.values())): gr.skip()}


def read(values: Values) -> RunSettings:
    """The settings that the page shows. Raises SettingsError with a problem for each field that can't be used."""
    tree = {path: from_component(fields_of()[path], value) for path, value in values.items() if _is_used(path, values)}
    return settings_from(nest(tree), "")


def read_legal(values: Values) -> RunSettings:
    """The settings that the page shows, with defaults where a field can't be used."""
    try:
        return read(values)
    except SettingsError as error:
        wrong = {problem.path for problem in error.problems}
        return read({path: value for path, value in values.items() if path not in wrong})


def values_shown(settings: RunSettings) -> dict[str, Any]:
    """The value of every field of the form: what a variant lacks has its default, so that it is there when chosen."""
    return {path: field.default for path, field in fields_of().items()} | values_of(settings)


def choose_variant(values: Values, section: str) -> dict[str, Any]:
    """The values of a section after another variant was chosen.

    What stood at a variant's default takes the default of the new one; what the person typed stays.
    """
    variant = values[chooser_of(section)]
    changed = {path: value for path, value in values.items() if fields_of()[path].section == section}
    for path, value in changed.items():
        field = fields_of()[path]
        if not field.is_discriminator and variant in field.defaults and value in field.defaults.values():
            changed[path] = field.defaults[variant]
    return changed


def belongs(field: SettingField, values: Values) -> bool:
    """False for a field of a variant that is not chosen."""
    return applies.belongs(field.path, values)


def union_sections() -> list[str]:
    return list(unions_of())


def component_for(field: SettingField, **options: Any) -> Component:
    """The Gradio component that edits one field.

    Limits are not given to it: what is wrong is said by our own check, in the person's language.
    """
    common: dict[str, Any] = {
        "label": t_label(field.path),
        "info": t_help(field.path),
        "value": for_component(field, field.default),
        "elem_id": element_id(field.path),
        "elem_classes": ["kb-field", f"kb-{field.kind}"],
        "interactive": True,
    }
    options = common | options
    if field.kind == "switch":
        return gr.Checkbox(**options)
    if field.kind == "choice":
        return gr.Dropdown(choices_of(field), **options)
    if field.kind in ("integer", "number"):
        return gr.Number(step=step_of(field), **options)
    lines = _LINES.get(field.path, 1)
    return gr.Textbox(**({"lines": lines, "max_lines": max(lines, 1) * 3} | options))


def choices_of(field: SettingField) -> list[tuple[Any, Any]]:
    return [(t_choice(field.path, value), value) for value in field.choices]


def step_of(field: SettingField) -> float:
    """What an arrow key adds: 1, or a tenth of small defaults."""
    if field.kind == "integer":
        return 1
    if field.default and 0 < field.default < 0.1:
        return field.default / 10
    return 0.01 if field.maximum is not None and field.maximum <= 1 else 0.1


def element_id(path: str) -> str:
    return "f-" + path.replace(".", "-")


def for_component(field: SettingField, value: Any) -> Any:
    """A setting as its component shows it: "not set" is an empty box, a path is text."""
    if field.kind in ("text", "path"):
        return "" if value is None else str(value)
    return value


def from_component(field: SettingField, value: Any) -> Any:
    """What a component shows as the value of a setting; an empty box stays empty text where None is not allowed."""
    if value is None or (isinstance(value, str) and not value.strip() and field.kind != "text"):
        return None if field.optional else ""
    if field.kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def load_draft(path: Path) -> dict[str, Any]:
    """What ``save_draft`` kept, over the defaults; only what the fields of today can show."""
    kept = read_draft(path)
    return DRAFT | {path: value for path, value in kept.items() if path in DRAFT and _can_show(path, value)}


def _can_show(path: str, value: Any) -> bool:
    field = fields_of()[path]
    if field.kind == "choice":
        return value in field.choices
    if field.kind == "switch":
        return isinstance(value, bool)
    if field.kind in ("integer", "number"):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return isinstance(value, str)


def _is_used(path: str, values: Values) -> bool:
    return belongs(fields_of()[path], values)


DRAFT: dict[str, Any] = {
    path: for_component(fields_of()[path], value) for path, value in values_shown(RunSettings()).items()
}
"""What the fields show before anything was typed."""
