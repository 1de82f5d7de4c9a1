"""Partial settings laid over whole ones: what files, presets, the command line and fixes of problems do."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from lora_core.errors import Problem, UserError
from lora_core.settings.fields import chooser_of, fields_of, unions_of, values_of
from lora_core.settings.problems import SettingsError, problems_from, unknown
from lora_core.settings.run import RunSettings

_NOT_SET = {"", "none", "null"}


def settings_from(tree: Mapping[str, Any], source: str) -> RunSettings:
    """Settings from sections with values; what is left out has its default.

    Raises SettingsError, which names ``source``, for unknown settings and values that can't be used.
    """
    try:
        return RunSettings.model_validate(_complete(tree))
    except ValidationError as error:
        raise SettingsError(source, problems_from(error)) from None


def with_values(settings: RunSettings, changes: Mapping[str, Any], source: str = "") -> RunSettings:
    """New settings with some values (dotted path -> value) changed.

    When the variant of a union changes, what was set before stays where the new variant has the same setting; what
    stood at its default takes the default of the new variant.
    """
    if missing := [path for path in changes if path not in fields_of()]:
        raise SettingsError(source, [unknown(path) for path in missing])
    values = values_of(settings)
    for section in unions_of():
        name = chooser_of(section)
        if changes.get(name, values[name]) != values[name]:
            values = _without_variant(values, section, str(changes[name]))
    return settings_from(nest(values | dict(changes)), source)


def apply_overrides(settings: RunSettings, overrides: Iterable[str]) -> RunSettings:
    """Settings changed by texts such as ``train.learning_rate=5e-5``; an empty value or "none" means not set."""
    changes: dict[str, Any] = {}
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            raise UserError("settings.override", text=override)
        changes[path.strip()] = value.strip()
    return with_values(settings, changes, "--set")


def apply_fix(settings: RunSettings, problem: Problem) -> RunSettings:
    """Settings with the cure of a problem applied."""
    return with_values(settings, problem.fix, problem.path)


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def _complete(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with values as their field takes them, and with the default variant where none is named."""
    defaults = values_of(RunSettings())
    done: dict[str, Any] = {}
    for section, values in tree.items():
        done[section] = values
        if isinstance(values, Mapping):
            done[section] = {name: _as_field(f"{section}.{name}", value) for name, value in values.items()}
            if section in unions_of():
                name = chooser_of(section)
                done[section].setdefault(name.rpartition(".")[2], defaults[name])
    return done


def _as_field(path: str, value: Any) -> Any:
    """Text for what files can't say: None, and choices that are numbers."""
    field = fields_of().get(path)
    if field is None or not isinstance(value, str):
        return value
    if field.optional and value.strip().lower() in _NOT_SET:
        return None
    by_text = {str(choice): choice for choice in field.choices}
    return by_text.get(value.strip(), value)


def _without_variant(values: dict[str, Any], section: str, new: str) -> dict[str, Any]:
    """Values without those that belong to the old variant of a section or were left at its default."""
    old = values[chooser_of(section)]
    fields = fields_of()

    def stays(path: str) -> bool:
        defaults = fields[path].defaults
        return fields[path].section != section or (new in defaults and values[path] != defaults[old])

    return {path: value for path, value in values.items() if stays(path)}
