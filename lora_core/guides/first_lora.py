"""First LoRA: from a folder of pictures and two words to settings that train. Torch-free; the pictures stay untouched.

The rule, for one folder of pictures:

    steps = pictures x repeats x epochs / batch

The steps to aim at come from the preset (``steps`` in its head): its learning rate and rank are chosen for about so
many, and the weights care for steps, not for pictures. The epochs are the preset's, too: after each there is a file and
a sample, and ten looks at the LoRA are enough to see where it is best. So the repeats are what follows from the number
of pictures. With more pictures than that, once each is the least, and the epochs become fewer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_core.data.checks import checked
from lora_core.data.dataset_table import text_of
from lora_core.data.folders import scan
from lora_core.data.layout import numbered
from lora_core.data.subsets import Scan, Subset
from lora_core.errors import Problem, UserError
from lora_core.guides.offers import Kind, Source, best_offer, presets_of, source_of, too_small
from lora_core.guides.pictures import Pictures, find_pictures
from lora_core.plan import Plan, plan_of_scan
from lora_core.preflight import check
from lora_core.runs import home
from lora_core.settings import DatasetSettings, RunSettings
from lora_core.settings.fields import values_of
from lora_core.settings.files import read_tree, write_text
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import Preset, apply_preset, find_preset, is_yours, list_presets
from lora_core.settings.slider import NO_SLIDER
from lora_core.train.files import free_name

USUAL_STEPS = 1000
"""Aimed at where a preset does not say: what most of ours do."""
FEW_PICTURES = 10
"""With fewer, a LoRA mostly learns these very pictures."""
FEWEST_EPOCHS, MOST_EPOCHS = 4, 100
"""Fewer would leave nothing to choose from, more is a typing error in a folder's name."""
SAVES = 10
"""So many files are kept of a run, about, however many epochs it has."""
MOST_REPEATS = 1000

_SCENES: Mapping[Kind, str] = {
    "character": "{words}, on a beach",
    "object": "{words}, on a table in a garden",
    "style": "a house by a river, {words}",
}
"""Where no training picture shows it: what a LoRA that copies its pictures cannot draw."""
_SAID_HERE = frozenset(
    {"data.child_chosen", "data.child_chosen_siblings", "data.many_repeats", "data.trigger_words_not_used"}
)
"""Findings about folder names, which the dataset file makes good."""


@dataclass(frozen=True)
class Wish:
    """What somebody answers. Empty: as proposed."""

    folder: Path | None = None
    trigger: str = ""
    class_word: str = ""
    kind: Kind = "character"
    preset: str = ""
    repeats: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Proposal:
    """What comes of a wish. ``settings`` train the pictures where they are, as far as folders alone can say it."""

    pictures: Pictures
    source: Source
    trigger: str
    class_word: str
    preset: Preset
    repeats: int | None
    """Of each picture; None for several folders, which say it themselves."""
    epochs: int
    shown: int
    """Pictures x repeats: how often an epoch shows a picture."""
    prefix: str
    """Put in front of captions that lack the words; empty where there is no need."""
    settings: RunSettings
    notes: tuple[Problem, ...]

    @property
    def words(self) -> str:
        return _joined(self.trigger, self.class_word)

    @property
    def batch(self) -> int:
        """Pictures of a step."""
        return _batch(self.settings)

    @property
    def steps(self) -> int:
        """By the rule. Buckets whose last batch is not full add a few; see ``plan_of``."""
        return max(1, round(self.shown * self.epochs / self.batch))

    @property
    def aim(self) -> int:
        return self.preset.steps or USUAL_STEPS

    @property
    def needs_file(self) -> bool:
        """Whether folder names do not say what is wanted, so that a dataset file has to."""
        if not self.pictures.is_root or self.prefix:
            return True
        only = self.pictures.subsets[0]
        return self.repeats is not None and (only.repeats, only.class_tokens) != (self.repeats, self.words)


def propose(wish: Wish, settings: RunSettings, gigabytes: float | None) -> Proposal:
    """Settings for a wish, from those on the page: its source model, folders and names stay.

    ``gigabytes``: of the graphics card; None where nobody can tell. Raises UserError for what can't be used: no
    pictures or one, no trigger word, a preset for another model, a file that is no model.
    """
    pictures = find_pictures(wish.folder)
    trigger, class_word = words_of(wish, pictures)
    source = source_of(settings.model, settings.model.family)
    preset = _preset(wish, source, gigabytes)
    laid = _laid_over(settings, preset, source)
    repeats, epochs, shown = _numbers(wish, pictures, laid, preset.steps or USUAL_STEPS)
    named = _named(laid, settings, trigger, class_word, wish.kind)
    prefix = _prefix(pictures, trigger, class_word)
    done = with_values(
        named,
        {
            **_only_folder(pictures),
            "dataset.reg_dir": _reg_dir(settings),
            **({"dataset.caption_prefix": prefix} if prefix else {}),
            **({"dataset.trigger_words": ""} if repeats is None and pictures.named else {}),
            **_cadence(named, epochs),
        },
    )
    notes = _notes(pictures, source, gigabytes, prefix)
    numbers = repeats, epochs, shown
    return Proposal(pictures, source, trigger, class_word, preset, *numbers, prefix, done, tuple(notes))


def words_of(wish: Wish, pictures: Pictures) -> tuple[str, str]:
    """Trigger word and class: those given, else those in the folder's name. Raises UserError without a trigger word."""
    trigger, class_word = " ".join(wish.trigger.split()), " ".join(wish.class_word.split())
    if not trigger and not class_word and pictures.named:
        trigger, _, class_word = pictures.subsets[0].class_tokens.partition(" ")
    if not trigger:
        raise UserError("guides.no_trigger")
    if trigger.casefold() == class_word.casefold():
        raise UserError("guides.trigger_is_class", word=trigger)
    return trigger, class_word.strip()


def repeats_for(pictures: int, epochs: int, batch: int, aim: int) -> int:
    """How often each picture is shown in an epoch, to come to about ``aim`` steps; at least once."""
    return min(MOST_REPEATS, max(1, round(aim * batch / (pictures * epochs))))


def epochs_for(shown: int, batch: int, aim: int) -> int:
    """How many epochs of ``shown`` pictures come to about ``aim`` steps, within what makes sense."""
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(aim * batch / shown)))


def plan_of(proposal: Proposal) -> Plan | None:
    """The exact arithmetic, with buckets and regularisation; None while an image can't be read, as the check says."""
    settings = proposal.settings
    found = checked(scan(settings.dataset), settings.dataset, deep=False)
    subsets = tuple(s if s.is_reg else _as_wanted(s, proposal) for s in found.subsets)
    try:
        return plan_of_scan(Scan(subsets, found.problems), settings) if found.train else None
    except UserError:
        return None


def preflight(proposal: Proposal) -> list[Problem]:
    """What the check before a run says, errors first, less what the dataset file makes good."""
    found = check(proposal.settings)
    return [problem for problem in found if not (proposal.needs_file and problem.key in _SAID_HERE)]


def lay_out(proposal: Proposal, before: RunSettings) -> RunSettings:
    """The settings to train with; writes the dataset file that names the folder, where one is needed.

    Nothing is copied, moved or linked: a dataset file says repeats and words for a folder as it is, on every system and
    drive, and pictures added later are found. ``before`` are the settings the proposal was made from.
    """
    settings = proposal.settings
    if not proposal.needs_file:
        return settings
    folder = home() / "guides" / settings.save.output_name
    path = _kept_or_new(folder, _tree(proposal, settings))
    changes: dict[str, Any] = {
        "dataset.config": path,
        "dataset.train_dir": None,
        "dataset.reg_dir": None,
        "dataset.caption_prefix": before.dataset.caption_prefix,
    }
    if settings.dataset.cache_latents == "disk" and settings.dataset.cache_dir is None:
        changes["dataset.cache_dir"] = folder / "cache"
    return with_values(settings, changes)


# ---- the dataset file ------------------------------------------------------------------------------------------------


def _tree(proposal: Proposal, settings: RunSettings) -> dict[str, Any]:
    """The tables of the dataset file: the pictures, and the regularisation folders of the page."""
    rows = [_row(_as_wanted(subset, proposal)) for subset in proposal.pictures.subsets]
    if settings.dataset.caption_prefix:
        rows = [row | {"caption_prefix": settings.dataset.caption_prefix} for row in rows]
    if settings.dataset.reg_dir is not None:
        options = DatasetSettings(reg_dir=settings.dataset.reg_dir)
        rows += [_row(subset) | {"is_reg": True} for subset in scan(options).reg]
    return {"datasets": [{"subsets": rows}]}


def _row(subset: Subset) -> dict[str, Any]:
    row = {"image_dir": str(subset.folder.absolute()), "num_repeats": subset.repeats}
    return row | ({"class_tokens": subset.class_tokens} if subset.class_tokens else {})


def _kept_or_new(folder: Path, tree: dict[str, Any]) -> Path:
    """The file that says just this, written if there is none. One that says something else was edited, and stays."""
    number, path = 1, folder / "dataset.toml"
    while path.exists():
        try:
            if read_tree(path) == tree:
                return path
        except UserError:
            pass  # somebody's, and broken: not ours to write over either
        number += 1
        path = folder / f"dataset-{number}.toml"
    write_text(path, text_of(tree, path))
    return path


def _as_wanted(subset: Subset, proposal: Proposal) -> Subset:
    if proposal.repeats is None:
        return subset
    return replace(subset, repeats=proposal.repeats, class_tokens=proposal.words)


# ---- the settings ----------------------------------------------------------------------------------------------------


def _preset(wish: Wish, source: Source, gigabytes: float | None) -> Preset:
    if not wish.preset:
        return find_preset(best_offer(source, wish.kind, gigabytes).preset)
    if wish.preset not in presets_of(source):
        raise UserError("guides.other_family", preset=wish.preset, names=", ".join(presets_of(source)))
    return find_preset(wish.preset)


def _laid_over(settings: RunSettings, preset: Preset, source: Source) -> RunSettings:
    """The preset for the family at hand, with what is the person's own kept, and none of the preset's own folders."""
    purpose = {path: value for path, value in preset.values.items() if not is_yours(path)}
    applied = apply_preset(settings, replace(preset, values=purpose))
    changes: dict[str, Any] = {"model.family": source.family}
    if source.family == "sd2" and source.v_prediction:
        changes["dataset.resolution"] = "768"
    return with_values(with_values(applied, changes), {"model.base": settings.model.base})


def _named(laid: RunSettings, before: RunSettings, trigger: str, class_word: str, kind: Kind) -> RunSettings:
    """With words, sample prompts, a name of its own that is free, and a folder to write to."""
    words = _joined(trigger, class_word)
    changes: dict[str, Any] = {
        "dataset.trigger_words": words,
        "save.output_dir": laid.save.output_dir or home() / "output",
        "save.output_name": _file_name(words),
    }
    if not laid.sample.prompts.strip() or _is_ours(before):
        changes["sample.prompts"] = prompts_for(trigger, class_word, kind)
    named = with_values(laid, changes)
    return with_values(named, {"save.output_name": free_name(named.save)})


def prompts_for(trigger: str, class_word: str, kind: Kind) -> str:
    """What to look at along the way: the thing, the thing in a new place, and what the class alone draws."""
    words = _joined(trigger, class_word)
    return "\n".join(line for line in (words, _SCENES[kind].format(words=words), class_word) if line)


def _is_ours(settings: RunSettings) -> bool:
    """Whether the sample prompts are those that a guide, or a preset, put there; anybody else's stay."""
    words, lines = settings.dataset.trigger_words, settings.sample.prompts.splitlines()
    scenes = [[words, scene.format(words=words)] for scene in _SCENES.values()]
    presets = (preset.values.get("sample.prompts") for preset in list_presets())
    return lines[:2] in scenes or settings.sample.prompts in presets


def _only_folder(pictures: Pictures) -> dict[str, Any]:
    """The pictures in place of whatever was trained before."""
    none = dict.fromkeys(("config", "metadata_file", "pair_before", "pair_after"))
    values: dict[str, Any] = {f"dataset.{name}": value for name, value in none.items()} | {**NO_SLIDER}
    values["dataset.caption_extension"] = pictures.caption_extension
    return values | {"dataset.train_dir": pictures.folder}


def _reg_dir(settings: RunSettings) -> Path | None:
    """The regularisation folder of the page; after a guide filled it in, that in the guide's own dataset file."""
    config = settings.dataset.config
    if config is None or not config.is_relative_to(home() / "guides"):
        return settings.dataset.reg_dir
    listed = scan(DatasetSettings(config=config)).reg
    if settings.dataset.reg_dir is not None or not listed:
        return settings.dataset.reg_dir
    folder = listed[0].folder
    return folder.parent if numbered(folder.name) else folder


def _cadence(settings: RunSettings, epochs: int) -> dict[str, Any]:
    """The epochs, and files and samples at about the tenth part of them where the preset's own would be too many."""
    values: dict[str, Any] = {"train.epochs": epochs, "train.max_train_steps": None}
    every = max(1, round(epochs / SAVES))
    for path in ("save.save_every_n_epochs", "sample.every_n_epochs"):
        value = values_of(settings)[path]
        if value is not None and (epochs / value > 2 * SAVES or value >= epochs):
            values[path] = every
    return values


# ---- numbers and words -----------------------------------------------------------------------------------------------


def _numbers(wish: Wish, pictures: Pictures, laid: RunSettings, aim: int) -> tuple[int | None, int, int]:
    """(repeats, epochs, pictures x repeats). What is given stays; the rest follows from the aim."""
    for value, most in ((wish.repeats, MOST_REPEATS), (wish.epochs, 10_000)):
        if value is not None and not 1 <= value <= most:
            raise UserError("guides.number", value=value, most=most)
    batch, usual = _batch(laid), laid.train.epochs
    if len(pictures.subsets) > 1:
        shown = sum(len(subset.images) * subset.repeats for subset in pictures.subsets)
        return None, wish.epochs or epochs_for(shown, batch, aim), shown
    repeats = wish.repeats
    if repeats is None and numbered(pictures.subsets[0].name):
        repeats = pictures.subsets[0].repeats
    if repeats is not None:
        shown = pictures.count * repeats
        return repeats, wish.epochs or epochs_for(shown, batch, aim), shown
    epochs = wish.epochs or min(usual, epochs_for(pictures.count, batch, aim))
    repeats = repeats_for(pictures.count, epochs, batch, aim)
    return repeats, epochs, pictures.count * repeats


def _batch(settings: RunSettings) -> int:
    return settings.images_per_batch * settings.train.gradient_accumulation_steps


def _prefix(pictures: Pictures, trigger: str, class_word: str) -> str:
    """The words in front of captions that none of them has: without, nothing would tie the pictures to them.

    Only where all pictures have captions; one without has the words already.
    """
    texts = pictures.texts()
    if len(pictures.subsets) > 1 or not texts or pictures.captions < pictures.count:
        return ""
    return "" if any(trigger.casefold() in text.casefold() for text in texts) else f"{_joined(trigger, class_word)},"


def _notes(pictures: Pictures, source: Source, gigabytes: float | None, prefix: str) -> list[Problem]:
    notes = []
    values: dict[str, Any]
    if pictures.count < FEW_PICTURES:
        values = {"count": pictures.count, "few": FEW_PICTURES}
        notes.append(Problem("dataset.train_dir", "guides.few_pictures", values, "warning"))
    if len(pictures.subsets) > 1:
        values = {"folders": len(pictures.subsets)}
        notes.append(Problem("dataset.train_dir", "guides.several_folders", values, "warning"))
    if prefix:
        values = {"words": prefix}
        notes.append(Problem("dataset.caption_prefix", "guides.prefix", values, "warning"))
    least = too_small(source, gigabytes)
    if least is not None:
        values = {"needed": f"{least:g}", "found": f"{gigabytes:.0f}"}
        notes.append(Problem("model.base", "guides.card_small", values, "warning"))
    return notes


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _file_name(words: str) -> str:
    """Words as a file name that every system takes: "usu bear" becomes usu_bear."""
    return re.sub(r"[^\w-]+", "_", words).strip("_-")[:80] or "my_lora"
