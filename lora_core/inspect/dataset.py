"""Dataset folders, tag frequencies and buckets from a LoRA's metadata, whatever state they are in."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from lora_core.inspect import bounded
from lora_core.inspect.report import Bucket, DatasetFolder, Tag, TagFolder

MOST_TAGS = 3000
"""Tags of one folder, and of all together, that are told."""
MOST_FOLDERS = 200
NAME = 200
"""Characters of a tag or a folder's name."""


def folders(metadata: Mapping[str, str]) -> tuple[DatasetFolder, ...]:
    """Image folders with their repeats: ss_dataset_dirs, ss_reg_dataset_dirs, or the subsets of ss_datasets."""
    found = [
        DatasetFolder(bounded.plain(name, NAME), _count(row, "img_count"), _count(row, "n_repeats"), regularisation)
        for key, regularisation in (("ss_dataset_dirs", False), ("ss_reg_dataset_dirs", True))
        for name, row in _table(metadata, key).items()
    ]
    found += [_subset(row) for part in _datasets(metadata) for row in _list(part.get("subsets"))]
    return tuple(found[:MOST_FOLDERS])


def _subset(row: Mapping[str, Any]) -> DatasetFolder:
    where = str(row.get("image_dir") or row.get("metadata_file") or "")[:4096]
    # Only the last part of a path, whichever system wrote it.
    name = PureWindowsPath(where).name if "\\" in where else PurePosixPath(where).name
    return DatasetFolder(
        bounded.plain(name, NAME), _count(row, "img_count"), _count(row, "num_repeats"), row.get("is_reg") is True
    )


def tags_by_folder(metadata: Mapping[str, str]) -> tuple[TagFolder, ...]:
    """Tags and their counts by dataset folder, most frequent first."""
    tables = [
        _table(metadata, "ss_tag_frequency"),
        *(bounded.mapping(p.get("tag_frequency")) for p in _datasets(metadata)),
    ]
    rows = [(folder, _counts(counts)) for table in tables for folder, counts in table.items()]
    return tuple(
        TagFolder(bounded.plain(folder, NAME), _most(counts)) for folder, counts in rows[:MOST_FOLDERS] if counts
    )


def tags(by_folder: tuple[TagFolder, ...]) -> tuple[Tag, ...]:
    """Tags summed over folders, most frequent first."""
    total: Counter[str] = Counter()
    for folder in by_folder:
        for tag in folder.tags:
            total[tag.name] += tag.count
    return _most(total)


def buckets(metadata: Mapping[str, str]) -> tuple[Bucket, ...]:
    """Sizes to which images were scaled, in the file's order."""
    infos = [_table(metadata, "ss_bucket_info"), *(bounded.mapping(p.get("bucket_info")) for p in _datasets(metadata))]
    rows = (row for info in infos for row in bounded.mapping(info.get("buckets")).values())
    return tuple(bucket for bucket in map(_bucket, rows) if bucket)[:MOST_FOLDERS]


def _bucket(row: Any) -> Bucket | None:
    sides = bounded.mapping(row).get("resolution")
    if not isinstance(sides, list) or len(sides) != 2:
        return None
    width, height, images = bounded.count(sides[0]), bounded.count(sides[1]), bounded.count(row.get("count"))
    return Bucket(width, height, images) if width and height and images is not None else None


def _counts(value: Any) -> Counter[str]:
    """Counts by tag. Kohya keeps the space after a comma in the tag; the same tag otherwise counts once."""
    found: Counter[str] = Counter()
    for name, number in bounded.mapping(value).items():
        if count := bounded.count(number):
            found[bounded.plain(name, NAME)] += count
    return found


def _most(counts: Counter[str]) -> tuple[Tag, ...]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Tag(name, count) for name, count in ordered[:MOST_TAGS])


def _count(row: Any, key: str) -> int | None:
    return bounded.count(bounded.mapping(row).get(key))


def _table(metadata: Mapping[str, str], key: str) -> Mapping[str, Any]:
    return bounded.mapping(bounded.parse(metadata.get(key, "")))


def _list(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (bounded.mapping(row) for row in (value if isinstance(value, list) else [])[:MOST_FOLDERS])


def _datasets(metadata: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The data sets of a run with a dataset configuration file."""
    return list(_list(bounded.parse(metadata.get("ss_datasets", ""))))
