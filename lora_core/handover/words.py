"""The words that call a LoRA up, and the prompt to paste."""

import re
from collections.abc import Iterator

from lora_core.data.layout import numbered
from lora_core.generate.tags import tag
from lora_core.inspect.report import DatasetFolder, HeaderReport

LONGEST = 500
"""Characters of trigger words; a file may say anything."""
MOST_TAGS = 3
"""Tags of one folder that are taken for trigger words."""


def trigger_words(report: HeaderReport) -> str:
    """What calls up what was learned: what the file says, else the words of its image folders ("20_usu bear").

    Captions take the place of a folder's words. Where they do not hold them, tags that stand in every caption count.
    """
    said = " ".join(report.trigger_words.split())
    return (said or ", ".join(dict.fromkeys(_found(report))))[:LONGEST].strip()


def _found(report: HeaderReport) -> Iterator[str]:
    tags = {part.folder: {tag.name: tag.count for tag in part.tags} for part in report.tags_by_folder}
    # A merged file has the tags alone, with the name of its source before that of the folder.
    unlisted = [DatasetFolder(name, None, None) for name in tags]
    for folder in report.datasets or unlisted:
        if not folder.regularisation:
            yield from (_literal(words) for words in _of_folder(folder, tags.get(folder.name, {})))


def _of_folder(folder: DatasetFolder, tags: dict[str, int]) -> list[str]:
    number = numbered(folder.name.rpartition("/")[2])
    words = " ".join(number.words.split()) if number else ""
    if words and (not tags or any(words.casefold() in name.casefold() for name in tags)):
        return [words]
    return [name for name, count in tags.items() if folder.images and count >= folder.images][:MOST_TAGS]


def _literal(words: str) -> str:
    r"""Tags such as "miku (vocaloid)": in a prompt a bracket would be a weight, unless it is written as \(."""
    return re.sub(r"(?<!\\)([()])", r"\\\1", words)


def prompt(name: str, strength: float, words: str) -> str:
    """What to paste: ``<lora:usu:0.8> usu bear``."""
    return f"{tag(name, strength)} {words}".strip()
