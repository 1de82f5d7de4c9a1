"""What the Merge tab shows, as plain values by key: how it begins, what belongs to a choice, what is kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.drafts import of_right_kind, read_draft
from lora_core.merge.methods import METHODS
from lora_core.runs import home

WHATS = ("add", "subtract", "bake", "extract", "resize")
"""What can be made, in the order of the cards."""
MOST_LORAS = 8
ROWS = range(1, MOST_LORAS + 1)
FEWEST = {"add": 2, "subtract": 2, "bake": 1, "extract": 0, "resize": 1}
MOST = {"add": MOST_LORAS, "subtract": 2, "bake": MOST_LORAS, "extract": 0, "resize": 1}
"""LoRA files that each of them shows."""
SIZES = {
    "add": ("rank", "energy"),
    "extract": ("rank", "energy"),
    "resize": ("rank", "energy", "sv_ratio", "sv_cumulative", "sv_fro"),
}
"""Ways to choose the rank of a result."""

Values = Mapping[str, Any]

DEFAULTS: dict[str, Any] = {
    "what": "add",
    "shown": 0,
    "checkpoint": "",
    "extract_base": "",
    "extract_tuned": "",
    "reverse": False,
    "method": "svd",
    "density": 0.5,
    "dare_seed": 0,
    "base": "",
    "size_add": "rank",
    "size_extract": "rank",
    "size_resize": "rank",
    "rank": 16,
    "conv_rank": None,
    "energy": 99.0,
    "cap": None,
    "same_rank": False,
    "dynamic_param": None,
    "conv": True,
    "text_encoder": True,
    "min_diff": 0.0,
    "folder": "",
    "name": "",
    "precision": "fp16",
    "checkpoint_precision": "same",
    "no_metadata": False,
    "preview_base": "",
    "preview_prompts": "",
    "preview_steps": 20,
    "preview_guidance": 7.0,
    "preview_seed": 1,
    "preview_width": None,
    "preview_height": None,
    "run": "",
    "preview_run": "",
    "subject": "",
}
"""Everything the tab keeps, and how it begins.

``shown`` is the number of LoRA rows asked for, ``run`` and ``preview_run`` are the folders of the jobs last started,
``subject`` is the finished file that the preview draws with, instead of what the tab describes.
"""
for _row in ROWS:
    DEFAULTS |= {f"path{_row}": "", f"ratio{_row}": 1.0, f"weights{_row}": ""}
CHOICES: Mapping[str, Sequence[str | int]] = {
    "shown": range(MOST_LORAS + 1),
    "what": WHATS,
    "method": tuple(METHODS),
    "size_add": SIZES["add"],
    "size_extract": SIZES["extract"],
    "size_resize": SIZES["resize"],
    "precision": ("fp16", "bf16", "float"),
    "checkpoint_precision": ("same", "fp16", "bf16", "float"),
}


# ---- what is shown ---------------------------------------------------------------------------------------------------


def rows_filled(values: Values) -> list[int]:
    """The LoRA rows on the page that name a file."""
    return [row for row in range(1, rows_shown(values) + 1) if str(values[f"path{row}"]).strip()]


def rows_shown(values: Values) -> int:
    """How many LoRA rows the tab shows: those that are filled in, at least what the choice needs."""
    what = values["what"]
    filled = max((row for row in ROWS if str(values[f"path{row}"]).strip()), default=0)
    return max(FEWEST[what], min(MOST[what], max(filled, int(values["shown"]))))


def is_merge(values: Values) -> bool:
    return values["what"] in ("add", "subtract")


def size_way(values: Values) -> str:
    """How the rank is chosen; empty where the result has none, or one of its own."""
    what = values["what"]
    if what == "bake" or (is_merge(values) and not METHODS[values["method"]].truncates):
        return ""
    return values["size_add" if is_merge(values) else f"size_{what}"]


def visible(values: Values) -> dict[str, bool]:
    """Which parts of the tab belong to what was chosen."""
    what, way, rows = values["what"], size_way(values), rows_shown(values)
    parameters = METHODS[values["method"]].parameters if is_merge(values) else ()
    removable = rows > FEWEST[what]
    return {
        **{f"row{row}": row <= rows and MOST[what] > 0 for row in ROWS},
        **{f"mix{row}": what != "resize" for row in ROWS},
        **{f"remove{row}": removable for row in ROWS},
        **{f"ratio{row}": what != "resize" for row in ROWS},
        "loras": MOST[what] > 0,
        "add_row": FEWEST[what] < MOST[what] and rows < MOST[what],
        "bake_part": what == "bake",
        "extract_part": what == "extract",
        "method": is_merge(values),
        "method_note": is_merge(values),
        "density": "density" in parameters,
        "dare_seed": "seed" in parameters,
        "how_part": what != "bake",
        "size_add": is_merge(values) and bool(way),
        "size_extract": what == "extract",
        "size_resize": what == "resize",
        "rank": way == "rank",
        "energy": way == "energy",
        "cap": way not in ("", "rank"),
        "same_rank": way == "energy",
        "dynamic_param": way.startswith("sv_"),
        "conv_rank": bool(way),
        "base_part": what in ("add", "subtract"),
        "precision": what != "bake",
        "checkpoint_precision": what == "bake",
        "preview_part": what != "extract" or bool(values["subject"]),
        "back": bool(values["subject"]) and what != "extract",
    }


def after_choosing(values: Values, what: str) -> dict[str, Any]:
    """The values that change with the choice: A - B presets the ratios 1 and -1, the others take the minus back."""
    changed: dict[str, Any] = {"shown": 0}
    if what == "subtract":
        changed |= {"ratio1": 1.0, "ratio2": -1.0}
    elif values["ratio2"] == -1:
        changed["ratio2"] = 1.0
    return changed


def without_row(values: Values, row: int) -> dict[str, Any]:
    """The rows after one was removed: those below move up."""
    keys = ("path", "ratio", "weights")
    moved = {f"{key}{r}": values[f"{key}{r + 1}"] for r in range(row, MOST_LORAS) for key in keys}
    last = {f"{key}{MOST_LORAS}": DEFAULTS[f"{key}{MOST_LORAS}"] for key in keys}
    return {**moved, **last, "shown": rows_shown(values) - 1}


def file_keys(values: Values) -> list[str]:
    """Keys of the boxes that name files, those first whose family the others must have."""
    models = {"bake": ("checkpoint",), "extract": ("extract_base", "extract_tuned")}.get(values["what"], ())
    base = ("base",) if is_merge(values) else ()
    return [*models, *(f"path{row}" for row in rows_filled(values)), *base]


# ---- the draft -------------------------------------------------------------------------------------------------------


def draft_file() -> Path:
    return home() / "merge.json"


def load_draft(path: Path) -> dict[str, Any]:
    """What the tab showed last time, over the defaults; only what it can show today."""
    return checked(read_draft(path))


def checked(kept: Values) -> dict[str, Any]:
    """Values of the right kind for every key of the tab."""
    return of_right_kind(kept, DEFAULTS, CHOICES)
