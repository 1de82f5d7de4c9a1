"""Presets: partial settings in presets/*.toml that hold only what differs from the defaults, and say for whom.

A person's own, made by own_presets.py, lie in presets/own of the app's home and have the same form.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, Language
from lora_core.runs import PROJECT, home
from lora_core.settings.fields import chooser_of, fields_of, unions_of, values_of
from lora_core.settings.files import migrated, read_tree
from lora_core.settings.overlay import settings_from, with_values
from lora_core.settings.run import RunSettings

FOLDER = PROJECT / "presets"
DEMO_DATASET = PROJECT / "lora_core" / "demo" / "dataset"

_YOURS = {
    "model.base",
    "model.allow_download",
    "dataset.trigger_words",
    "dataset.caption_extension",
    "dataset.caption_prefix",
    "dataset.caption_suffix",
    "train.device",
    "save.output_name",
    "save.overwrite",
    "save.tensorboard",
    "save.comment",
    "save.title",
    "save.author",
    "save.description",
    "save.license",
    "save.tags",
    "sample.prompts",
    "slider.target",
    "slider.more",
    "slider.less",
    "slider.keep",
    "validation.class_prompt",
}
"""Beside all paths: what says which pictures, which names, which machine. No preset for a purpose changes it."""


@dataclass(frozen=True)
class Preset:
    """One file of presets/. ``name`` is its file name without ending; ``values`` holds dotted paths."""

    name: str
    titles: Mapping[Language, str]
    purposes: Mapping[Language, str]
    order: int
    values: Mapping[str, Any]
    sections: tuple[str, ...] = ()
    """The sections it is about; the others stay as they are. Empty: all."""
    is_own: bool = False
    steps: int | None = None
    """How many steps its learning rate and rank are chosen for. What a guide aims at; nothing else reads it."""

    def title(self, language: Language = "en") -> str:
        return self.titles[language]

    def purpose(self, language: Language = "en") -> str:
        """For whom or what it is, in one line."""
        return self.purposes[language]


def own_folder() -> Path:
    """Where a person's own presets are kept: below presets, for the home may be the program's own folder."""
    return home() / "presets" / "own"


def list_presets(folder: Path = FOLDER) -> list[Preset]:
    """The presets that come along, in the order in which they are offered."""
    presets = [read_preset(path) for path in folder.glob("*.toml")]
    return sorted(presets, key=lambda preset: (preset.order, preset.name))


def list_own() -> tuple[list[Preset], list[UserError]]:
    """A person's own presets by name, and what is wrong with files that are none: one of them spoils no list."""
    presets, wrong = [], []
    for path in sorted(own_folder().glob("*.toml"), key=lambda path: path.name.casefold()):
        try:
            presets.append(read_preset(path))
        except UserError as error:
            wrong.append(error)
    return presets, wrong


def find_preset(name: str, folder: Path = FOLDER) -> Preset:
    """The preset of a file name without ending, built-in or own. Raises UserError that names those there are."""
    presets = {preset.name: preset for preset in [*list_own()[0], *list_presets(folder)]}
    if name not in presets:
        raise UserError("preset.missing", name=name, names=", ".join(presets))
    return presets[name]


def read_preset(path: Path) -> Preset:
    """A preset file. ``{demo}`` in its texts is the folder of the sample dataset, ``{home}`` that of runs and output."""
    tree = read_tree(path)
    head = tree.pop("preset", {})
    try:
        titles, purposes = _in_languages(head["name"]), _in_languages(head["for"])
        order, about = int(head.get("order", 0)), tuple(map(str, head.get("sections", ())))
        steps = int(head["steps"]) if "steps" in head else None
    except (KeyError, TypeError, ValueError):
        raise UserError("preset.header", path=path) from None
    sections = {name: section for name, section in migrated(tree, path).items() if name != "version"}
    settings_from(sections, str(path))  # unknown settings and wrong values are named with the file
    is_own = path.parent == own_folder()
    return Preset(path.stem, titles, purposes, order, dict(_flat(sections)), about, is_own, steps)


def is_yours(path: str) -> bool:
    """Whether a setting says which pictures, names or machine, which no preset for a purpose changes."""
    return path in _YOURS or fields_of()[path].kind == "path"


def apply_preset(settings: RunSettings, preset: Preset) -> RunSettings:
    """The preset's settings with what is the user's own kept: folders, files, names, texts, prompts, device.

    All else comes from the preset or is a default, so that the outcome does not depend on the preset chosen before.
    What is the user's changes only where the preset says so; what another preset put there is not the user's.
    """
    if preset.sections:
        return _apply_sections(settings, preset)
    others = list_presets()
    family = preset.values.get("model.family", settings.model.family)
    start = with_values(RunSettings(), {"model.family": family})
    own = {
        path: value
        for path, value in values_of(settings).items()
        if is_yours(path)
        and path in values_of(start)
        and not any(str(other.values.get(path)) == str(value) for other in others)
    }
    return with_values(with_values(start, own), preset.values, preset.name)


def _apply_sections(settings: RunSettings, preset: Preset) -> RunSettings:
    """The sections the preset is about, as it says or as by default; what is the user's own in them stays."""
    kept = {
        path: value
        for path, value in values_of(settings).items()
        if fields_of()[path].section not in preset.sections or is_yours(path)
    }
    chosen = {path: preset.values[path] for path in map(chooser_of, unions_of()) if path in preset.values}
    start = with_values(RunSettings(), {p: kept[p] for p in map(chooser_of, unions_of()) if p in kept} | chosen)
    kept = {path: value for path, value in kept.items() if path in values_of(start)}
    return with_values(with_values(start, kept), preset.values, preset.name)


def _in_languages(said: Any) -> dict[Language, str]:
    """A text in every language: a table, or one text for all, as people write for themselves."""
    return dict.fromkeys(LANGUAGES, said) if isinstance(said, str) else {name: str(said[name]) for name in LANGUAGES}


def lay_over(settings: RunSettings, preset: Preset) -> RunSettings:
    """The settings with the preset's values and all else as it was: for settings that someone wrote on purpose."""
    return with_values(settings, preset.values, preset.name)


def _flat(sections: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, values in sections.items():
        for name, value in values.items():
            yield f"{section}.{name}", _filled(value)


def _filled(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return value.replace("{demo}", DEMO_DATASET.as_posix()).replace("{home}", home().as_posix())
