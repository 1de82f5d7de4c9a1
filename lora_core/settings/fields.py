"""Every setting by its dotted path, read from the settings models: what forms, files, presets and the reference share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lora_core.i18n import Language, catalogue
from lora_core.settings.run import RunSettings

Kind = Literal["text", "path", "integer", "number", "switch", "choice"]
_KINDS: dict[type, Kind] = {bool: "switch", int: "integer", float: "number", Path: "path", str: "text"}


@dataclass(frozen=True)
class SettingField:
    """One setting. In a union (optimizer, schedule) the variants that have it share one entry."""

    path: str
    kind: Kind
    default: Any
    """Of the variant that is the default, else of the first variant that has it."""
    title: str
    help: str
    kohya: str | None = None
    """Name of the option of the same meaning in Kohya's GUI."""
    optional: bool = False
    """None is allowed and means "not set"."""
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    open_minimum: bool = False
    """The minimum itself is not allowed."""
    open_maximum: bool = False
    max_length: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """In a union: variant name -> default there. Its keys are the variants that have the setting."""

    @property
    def section(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants of the union that have it; empty outside unions."""
        return tuple(self.defaults)

    @property
    def is_discriminator(self) -> bool:
        """It chooses the variant of its section, as optimizer.name does."""
        return bool(self.defaults) and all(variant == value for variant, value in self.defaults.items())


@cache
def fields_of(model: type[BaseModel] = RunSettings) -> dict[str, SettingField]:
    """All settings in the order they are declared, the choice of a variant before the settings of the variants."""
    fields: dict[str, SettingField] = {}
    for section, info in model.model_fields.items():
        if info.discriminator:
            fields |= _union_fields(section, info)
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            fields |= {f"{section}.{path}": _inside(section, f) for path, f in fields_of(info.annotation).items()}
        elif section != "version":
            fields[section] = _one(section, info)
    return fields


@cache
def unions_of(model: type[BaseModel] = RunSettings) -> dict[str, dict[str, type[BaseModel]]]:
    """Sections that are unions: section -> variant name -> its model."""
    return {
        section: {
            variant.model_fields[str(info.discriminator)].default: variant for variant in get_args(info.annotation)
        }
        for section, info in model.model_fields.items()
        if info.discriminator
    }


@cache
def chooser_of(section: str) -> str:
    """The path of the setting that chooses the variant of a union: optimizer.name, network.algo."""
    return f"{section}.{RunSettings.model_fields[section].discriminator}"


def values_of(settings: BaseModel) -> dict[str, Any]:
    """The value of every setting that these settings have, by dotted path."""
    return dict(_leaves(settings))


def default_of(path: str, values: Mapping[str, Any]) -> Any:
    """The default of a setting with the variant that is chosen: weight decay has one for each optimizer."""
    found = fields_of()[path]
    if not found.defaults or found.is_discriminator:
        return found.default
    return found.defaults.get(str(values.get(chooser_of(found.section))), found.default)


def label(path: str, language: Language = "en") -> str:
    """What a setting is called on screen. KeyError for an unknown path."""
    title = fields_of()[path].title
    return title if language == "en" else catalogue(language)[f"{path}.label"]


def help_text(path: str, language: Language = "en") -> str:
    """What a setting does and what changing it costs."""
    docstring = fields_of()[path].help
    return docstring if docstring and language == "en" else catalogue(language)[f"{path}.help"]


def choice_label(path: str, value: Any, language: Language = "en") -> str:
    """What one value of a choice is called on screen; names such as AdamW are the same in every language."""
    return catalogue(language).get(f"{path}.choice.{value}", str(value))


def section_label(section: str, language: Language = "en") -> str:
    """What a section (model, dataset, network ...) is called on screen."""
    return catalogue(language)[f"section.{section}"]


def _leaves(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        elif prefix or name != "version":
            yield f"{prefix}{name}", value


def _inside(section: str, inner: SettingField) -> SettingField:
    return replace(inner, path=f"{section}.{inner.path}")


def _one(path: str, info: FieldInfo) -> SettingField:
    annotation, optional = _without_none(info.annotation)
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    return SettingField(
        path=path,
        kind="choice" if choices else _KINDS[annotation],
        default=info.default,
        title=info.title or path,
        help=info.description or "",
        kohya=_kohya(info),
        optional=optional,
        choices=choices,
        **_limits(info),
    )


def _kohya(info: FieldInfo) -> str | None:
    name = info.json_schema_extra.get("kohya") if isinstance(info.json_schema_extra, dict) else None
    return name if isinstance(name, str) else None


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """The type inside ``T | None`` and ``Annotated[T, ...]``, and whether None was allowed."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    (inner,) = [arg for arg in get_args(annotation) if arg is not NoneType]
    return _without_none(inner)[0], True


def _limits(info: FieldInfo) -> dict[str, Any]:
    found = {name: getattr(rule, name) for rule in info.metadata for name in _LIMITS if hasattr(rule, name)}
    limits: dict[str, Any] = {_LIMITS[name]: value for name, value in found.items()}
    return limits | {"open_minimum": "gt" in found, "open_maximum": "lt" in found}


_LIMITS = {"ge": "minimum", "gt": "minimum", "le": "maximum", "lt": "maximum", "max_length": "max_length"}


def _union_fields(section: str, info: FieldInfo) -> dict[str, SettingField]:
    """The settings of all variants, one entry a name; the default variant speaks for its settings."""
    name = str(info.discriminator)
    variants = {variant.model_fields[name].default: variant for variant in get_args(info.annotation)}
    default = getattr(info.default, name)
    header = SettingField(
        path=f"{section}.{name}",
        kind="choice",
        default=default,
        title=info.title or section,
        help=info.description or "",
        kohya=_kohya(info),
        choices=tuple(variants),
        defaults={variant: variant for variant in variants},
    )
    fields = {header.path: header}
    for variant in sorted(variants, key=lambda variant: variant != default):
        for inner, inner_info in variants[variant].model_fields.items():
            if inner != name:
                new = _one(f"{section}.{inner}", inner_info)
                fields[new.path] = _merged(fields.get(new.path, new), new, variant)
    order = list(variants)
    return {
        path: replace(f, defaults={variant: f.defaults[variant] for variant in order if variant in f.defaults})
        for path, f in fields.items()
    }


def _merged(known: SettingField, new: SettingField, variant: str) -> SettingField:
    if known.kind != new.kind:
        raise TypeError(f"{new.path}: {known.kind} in one variant, {new.kind} in {variant}")
    return replace(
        known,
        optional=known.optional or new.optional,
        choices=tuple(dict.fromkeys(known.choices + new.choices)),
        defaults={**known.defaults, variant: new.default},
    )
