"""How a LoRA was trained, as HTML: the recipe in groups, its folders of images, and how often each tag was used."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from app.i18n import say
from app.inspect.html import clipped, facts, fold, table, tag, words
from app.inspect.view import metadata_html
from lora_core.i18n import Language, text
from lora_core.inspect.recipe import words_of
from lora_core.inspect.report import GROUPS, Bucket, DatasetFolder, HeaderReport, RecipeEntry, Tag, TagFolder

TAGS_SHOWN = 100
FOLDERS_SHOWN = 200


def details_html(report: HeaderReport, metadata: dict[str, str], language: Language) -> str:
    """The lower part of the page: everything the metadata hold, folded by subject, the recipe open."""
    if report.kind != "lora":
        return raw_html(metadata, language)
    folders = folders_html(report.datasets, language) + buckets_html(report.buckets, language)
    return "".join(
        [
            fold(
                say("inspector.recipe", language), recipe_html(report.recipe, language), is_open=True, name="in_recipe"
            ),
            fold(
                say("inspector.tags", language),
                tags_html(report.tags, report.tags_by_folder, language),
                name="in_tags",
                is_open=True,
                note=say("inspector.tags_count", language, count=len(report.tags)),
            ),
            fold(say("inspector.datasets", language), folders, name="in_datasets"),
            fold(
                say("inspector.made_from", language), made_from_html(report.merge_recipe, language), name="in_made_from"
            ),
            raw_html(metadata, language),
        ]
    )


def raw_html(metadata: dict[str, str], language: Language) -> str:
    note = say("inspector.entries", language, count=len(metadata))
    return fold(say("inspector.raw", language), metadata_html(metadata, language), name="in_raw", note=note)


def recipe_html(recipe: Sequence[RecipeEntry], language: Language) -> str:
    """A table a group, in the order of the report's groups; settings that were not used are left out."""
    ordered = sorted((entry for entry in recipe if is_told(entry)), key=lambda entry: GROUPS.index(entry.group))
    return (
        tag(
            "div",
            "".join(
                group_html(group, list(entries), language)
                for group, entries in groupby(ordered, lambda entry: entry.group)
            ),
            "in-recipe",
        )
        if ordered
        else ""
    )


def is_told(entry: RecipeEntry) -> bool:
    """False for what is shown elsewhere on the page (tags, folders, buckets) and for what was not set."""
    return entry.value not in (None, "", [], {}) and entry.key not in SHOWN_ELSEWHERE


SHOWN_ELSEWHERE = frozenset(
    {
        "ss_tag_frequency",
        "ss_dataset_dirs",
        "ss_reg_dataset_dirs",
        "ss_datasets",
        "ss_bucket_info",
        "modelspec.thumbnail",
        "modelspec.description",
        "kumakobo_settings",
        "kumakobo_recipe",
    }
)


def group_html(group: str, entries: Sequence[RecipeEntry], language: Language) -> str:
    rows = [(clipped(entry.label(language), 200), clipped(entry.shown(language), 600)) for entry in entries]
    cells = "".join(
        tag("tr", tag("th", words(label), scope="row", title=clipped(entry.key, 200)) + words(value, name="td"))
        for entry, (label, value) in zip(entries, rows, strict=True)
    )
    return tag(
        "div",
        words(text(f"inspect.group.{group}", language), name="h4") + tag("table", tag("tbody", cells), "in-table"),
        "in-recipe-group",
    )


def made_from_html(recipe: Any, language: Language) -> str:
    """How a merged or extracted file was made, so that it can be made again. Nothing for what is no such recipe."""
    if not isinstance(recipe, dict) or not isinstance(recipe.get("sources"), list):
        return ""
    numbers = [(key, words_of(value, language)) for key, value in recipe.items() if key not in ("sources", "version")]
    sources = [source for source in recipe["sources"] if isinstance(source, dict)]
    columns = ("name", "ratio", "block_weights", "sha256")
    rows = [[clipped(words_of(source.get(key, "–"), language), 300) for key in columns] for source in sources]
    heads = [say(f"inspector.column.{name}", language) for name in ("file", "ratio", "weights", "sha256")]
    listed = tag("div", table(heads, rows, "in-settings"), "in-scroll") if rows else ""
    return facts(numbers) + listed


# ---- tags ------------------------------------------------------------------------------------------------------------


def tags_html(tags: Sequence[Tag], by_folder: Sequence[TagFolder], language: Language) -> str:
    """The tags with bars: all together, and one list a folder, of which one is shown at a time."""
    if not tags:
        return ""
    lists = {"": tags}
    if len(by_folder) > 1:
        lists |= {str(place): folder.tags for place, folder in enumerate(by_folder[:FOLDERS_SHOWN])}
    search = tag(
        "input",
        "",
        "in-filter",
        type="search",
        placeholder=say("inspector.filter", language),
        aria_label=say("inspector.filter", language),
        autocomplete="off",
    )
    bodies = "".join(tag_list(found, language, place) for place, found in lists.items())
    return tag("div", tag("div", search + folder_choice(by_folder, language), "in-tag-top") + bodies, "in-tags")


def folder_choice(by_folder: Sequence[TagFolder], language: Language) -> str:
    """Which folder's tags are shown; nothing to choose with one folder."""
    if len(by_folder) < 2:
        return ""
    names = {"": say("inspector.all_folders", language)}
    names |= {str(place): clipped(folder.folder, 120) for place, folder in enumerate(by_folder[:FOLDERS_SHOWN])}
    options = "".join(words_option(name, place) for place, name in names.items())
    return tag("select", options, "in-folder", aria_label=say("inspector.folder", language))


def words_option(name: str, value: str) -> str:
    return tag("option", words(name), value=value)


def tag_list(tags: Sequence[Tag], language: Language, place: str) -> str:
    """The most frequent tags of one folder, or of all (place "")."""
    highest = max((found.count for found in tags), default=0) or 1
    rows = "".join(tag_row(found, highest) for found in tags[:TAGS_SHOWN])
    more = len(tags) - TAGS_SHOWN
    left_out = words(say("inspector.more_tags", language, count=more), "in-note", name="p") if more > 0 else ""
    shown = {} if place == "" else {"hidden": "hidden"}
    return tag("div", tag("ol", rows, "in-tag-list") + left_out, "in-tag-folder", data_folder=place, **shown)


def tag_row(found: Tag, highest: int) -> str:
    name = clipped(found.name, 200)
    bar = tag("i", "", style=f"width:{100 * max(0, found.count) / highest:.1f}%", aria_hidden="true")
    return tag(
        "li",
        tag("span", bar, "in-tag-bar") + words(name, "in-tag-name") + words(f"{found.count:,}", "in-tag-count"),
        data_tag=name.lower(),
    )


# ---- images ----------------------------------------------------------------------------------------------------------


def folders_html(folders: Sequence[DatasetFolder], language: Language) -> str:
    if not folders:
        return ""
    heads = [say(f"inspector.column.{name}", language) for name in ("folder", "images", "repeats", "use")]
    rows = [
        [
            clipped(folder.name, 200),
            _count(folder.images),
            _count(folder.repeats),
            say("inspector.regularisation" if folder.regularisation else "inspector.training", language),
        ]
        for folder in folders[:FOLDERS_SHOWN]
    ]
    return tag("div", table(heads, rows, "in-numbers"), "in-scroll")


def buckets_html(buckets: Sequence[Bucket], language: Language) -> str:
    """The sizes images were scaled to, most images first."""
    if not buckets:
        return ""
    ordered = sorted(buckets, key=lambda bucket: bucket.images, reverse=True)[:FOLDERS_SHOWN]
    return facts(
        [(say("inspector.buckets", language), " · ".join(f"{b.width}×{b.height}: {b.images:,}" for b in ordered))]
    )


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
