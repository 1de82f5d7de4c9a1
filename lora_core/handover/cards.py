"""What stands beside a LoRA for the programs that show it.

``name.json``: AUTOMATIC1111 1.10 and Forge, extensions-builtin/Lora/ui_edit_user_metadata.py (the keys) and
ui_extra_networks_lora.py (what a click on the card pastes). ``name.civitai.info``: the answer of Civitai's
model-versions interface, which ComfyUI's LoRA Manager (py/services/model_scanner.py, py/utils/models.py) and others
read from the disk. A file that was never on Civitai has empty ids and ``skeleton_file``, as Civitai Helper writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.handover.places import Card
from lora_core.inspect.report import HeaderReport
from lora_core.io.kinds import Family

ENDINGS: Mapping[Card, str] = {"webui": ".json", "civitai": ".civitai.info"}
SD_VERSIONS: Mapping[Family, str] = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL", "sd3": "SD3", "flux": "Flux"}
"""Family -> the name in the web UIs' choice of versions; a program that lacks one looks at the file itself."""
BASE_MODELS: Mapping[Family, str] = {
    "sd1": "SD 1.5",
    "sd2": "SD 2.1",
    "sdxl": "SDXL 1.0",
    "sd3": "SD 3",
    "flux": "Flux.1 D",
}
"""Family -> Civitai's name of the most usual base model of it; which one it was exactly is not told by the file."""
CIVITAI_TYPES: Mapping[str, str] = {"lora": "LORA", "dora": "DoRA"}
"""Algorithm -> Civitai's type; all others are LoCon there."""
PERSONAL = ("description", "negative text", "notes")
"""Entries of a web UI's card that a person writes there: they stay when a LoRA is replaced by a newer one."""


@dataclass(frozen=True)
class Facts:
    """What the cards tell."""

    report: HeaderReport
    name: str
    """Of the file, without its ending."""
    words: str
    strength: float
    negative: str
    sha256: str

    @property
    def notes(self) -> str:
        """How it was made, in names that are the same in every language."""
        report = self.report
        rank = f"rank {report.rank}" if report.rank else ""
        alpha = f"alpha {report.alpha:g}" if report.alpha is not None else ""
        parts = (report.program, report.base.name, rank, alpha, report.author, report.license)
        return " · ".join(part for part in parts if part)


def card(kind: Card, facts: Facts, there: Path | None = None) -> bytes:
    """The file of a card. ``there``: the one it takes the place of, whose own words are kept."""
    made = webui(facts, there) if kind == "webui" else civitai(facts)
    return json.dumps(made, indent=4, ensure_ascii=False).encode("utf-8", "replace")


def webui(facts: Facts, there: Path | None = None) -> dict[str, Any]:
    """The card of AUTOMATIC1111 and Forge."""
    made = {
        "description": facts.report.description,
        "sd version": SD_VERSIONS.get(facts.report.family, "Unknown"),
        "activation text": facts.words,
        "preferred weight": facts.strength,
        "negative text": facts.negative,
        "notes": facts.notes,
    }
    before = _card_there(there)
    kept = {key: before[key] for key in PERSONAL if before.get(key)}
    return before | made | kept | ({"negative text": facts.negative} if facts.negative else {})


def _card_there(path: Path | None) -> dict[str, Any]:
    """A card that a web UI wrote; nothing for any other file of that name, such as the settings of a training."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and {"activation text", "preferred weight"} & found.keys() else {}


def civitai(facts: Facts) -> dict[str, Any]:
    """As Civitai would describe it, had it been there."""
    report = facts.report
    algorithm = next(iter(report.algorithms), "")
    file = {
        "name": f"{facts.name}{report.path.suffix}",
        "sizeKB": report.size / 1024,
        "type": "Model",
        "primary": True,
        "hashes": {"SHA256": facts.sha256.upper(), "AutoV2": facts.sha256[:10].upper()},
    }
    model = {
        "name": report.title or facts.name,
        "type": CIVITAI_TYPES.get(algorithm, "LoCon"),
        "description": report.description,
        "tags": [],
        "nsfw": False,
        "poi": False,
    }
    return {
        "id": "",
        "modelId": "",
        "name": facts.name,
        "baseModel": BASE_MODELS.get(report.family, "Other"),
        "trainedWords": [facts.words] if facts.words else [],
        "description": facts.notes,
        "model": model,
        "files": [file],
        "images": [],
        "downloadUrl": "",
        "skeleton_file": True,
    }
