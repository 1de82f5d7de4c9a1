"""The layers that the real models have, with the shapes of their weights. Written by tools/write_layer_tables.py.

Read when first asked for; each family is a small gzipped JSON in ``known/``.
"""

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lora_core.io.kinds import Family

Shape = tuple[int, ...]
_FOLDER = Path(__file__).parent / "known"


class _Table(NamedTuple):
    layers: Mapping[str, Shape]
    vectors: Mapping[str, Shape]
    targets: frozenset[str]


@cache
def _table(family: Family) -> _Table:
    path = _FOLDER / f"{family}.json.gz"
    if not path.is_file():
        return _Table({}, {}, frozenset())
    with gzip.open(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    layers, vectors = (
        MappingProxyType({name: tuple(shape) for name, shape in content[key].items()}) for key in ("layers", "vectors")
    )
    return _Table(layers, vectors, frozenset(content["targets"]))


def layers(family: Family) -> Mapping[str, Shape]:
    """Every linear and convolution layer of denoiser and text encoders by canonical name, with its weight's shape.

    In the order of the model. Empty for a family without a table. "sd2" is 2.1, "flux" is FLUX.1-dev (with guidance).
    """
    return _table(family).layers


def vectors(family: Family) -> Mapping[str, Shape]:
    """Every norm layer that LyCORIS can train (``w_norm``, ``b_norm``) by canonical name, with its weight's shape."""
    return _table(family).vectors


def default_targets(family: Family) -> frozenset[str]:
    """The layers a plain LoRA trains in kohya's sd-scripts: 192 + 72 of SD 1, 722 + 264 of SDXL, 304 of FLUX."""
    return _table(family).targets
