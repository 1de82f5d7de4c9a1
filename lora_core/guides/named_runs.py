"""The runs of a guide, found by the output names that it filled in. Torch-free."""

import re
from collections.abc import Iterable, Sequence

from lora_core.runs import RunFolder


def runs_named(names: Iterable[str], runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Those of the runs whose output name is one of these, in their order.

    By the name of the folder, "20261121-101500-usu-1-check": so a page with many runs reads those of the guide only.
    """
    outputs = "|".join(re.escape(re.sub(r"\s+", "_", name)) for name in names)
    if not outputs:
        return []
    return [run for run in runs if re.fullmatch(rf"\d{{8}}-\d{{6}}-(?:{outputs})(?:-\d\d)?", run.path.name)]
