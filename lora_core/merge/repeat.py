"""Making a merged LoRA again from the recipe inside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.io.hashes import model_hash
from lora_core.io.headers import read_header
from lora_core.merge.recipe import read_recipe
from lora_core.settings.tools import MergeSettings, checked

REPEATED = ("method", "rank", "conv_rank", "energy", "same_rank", "precision", "density", "seed")


def repeated(result: Path, folder: Path, target: Mapping[str, Any]) -> MergeSettings:
    """The settings of the merge that made ``result``, with its sources found in ``folder`` by their sha256.

    Raises UserError where the file holds no recipe of a merge, or a source is not there.
    """
    recipe = read_recipe(read_header(result).metadata)
    if recipe is None or recipe.get("job") != "merge":
        raise UserError("merge.no_recipe", path=result)
    loras = [
        {
            "path": find(source, folder),
            "ratio": source.get("ratio", 1.0),
            "block_weights": source.get("block_weights", ""),
        }
        for source in recipe["sources"]
    ]
    steps = {name: recipe[name] for name in REPEATED if name in recipe}
    return checked(MergeSettings, {**target, **steps, "loras": loras}, str(result))


def find(source: object, folder: Path) -> Path:
    """The file of a source: of its name and hash, else of its hash. Raises UserError when there is none."""
    entry = source if isinstance(source, dict) else {}
    name, wanted = Path(str(entry.get("name", ""))).name, entry.get("sha256")
    files = sorted(folder.glob("*.safetensors"), key=lambda path: path.name != name)
    for path in files:
        if wanted and model_hash(path) == wanted:
            return path
    raise UserError("merge.source_missing", name=name or "?", folder=folder)
