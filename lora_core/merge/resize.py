"""A LoRA in a smaller rank: the best approximation, by the singular values of the factors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, StageChanged
from lora_core.merge import recipe
from lora_core.merge.combine import PROGRESS_EVERY, decompose, facts_of, junk_warnings
from lora_core.merge.lora import LoraFile, load_lora, save_result
from lora_core.merge.lowrank import Array, LowRank, Svd
from lora_core.merge.outputs import check_output
from lora_core.merge.sizes import Sizes
from lora_core.settings.tools import ResizeSettings


def sv_ratio(values: Array, largest_over_smallest: float) -> int:
    """How many singular values are at least the first / parameter."""
    return int(np.sum(values * largest_over_smallest >= values[0]))


def sv_cumulative(values: Array, share: float) -> int:
    """The smallest rank whose singular values add up to a share of the sum of all."""
    return _first_reaching(np.cumsum(values, dtype=np.float64), share)


def sv_fro(values: Array, share: float) -> int:
    """The smallest rank whose Frobenius norm is a share of the whole: |D_r| >= share |D|."""
    return _first_reaching(np.cumsum(np.square(values, dtype=np.float64)), share**2)


def _first_reaching(sums: Array, share: float) -> int:
    return min(int(np.searchsorted(sums, share * sums[-1] * (1 - 1e-12))) + 1, len(sums))


DYNAMIC: Mapping[str, Callable[[Array, float], int]] = {
    "sv_ratio": sv_ratio,
    "sv_cumulative": sv_cumulative,
    "sv_fro": sv_fro,
}
"""Ways to choose a rank by singular values (falling, the first not 0). resize_lora.py keeps one more than asked."""


def resize(settings: ResizeSettings) -> Iterator[EventBase]:
    """Reads, shrinks, writes. Raises UserError; nothing is then left behind."""
    yield StageChanged(stage="reading")
    check_parameters(settings)
    if settings.lora is None:
        raise UserError("merge.no_lora")
    file = load_lora(settings.lora)
    output = check_output(settings, [file.path])
    yield from junk_warnings([file])
    changes: dict[str, LowRank] = {}
    waiting: dict[str, Svd] = {}
    sizes, layers = Sizes.of(settings), file.names()
    for done, layer in enumerate(layers, 1):
        change = file.change(layer)
        found = decompose(change, Sizes(sizes.rank, sizes.conv_rank), layer)
        svd = found if isinstance(found, Svd) else found.svd
        if settings.same_rank:
            waiting[layer] = svd
        else:
            changes[layer] = cut(svd, settings, change.norm() ** 2)
        if done % PROGRESS_EVERY == 0 or done == len(layers):
            yield StageChanged(stage="computing", done=done, total=len(layers))
    changes |= sizes.cut_alike(waiting)
    changes = {layer: change for layer, change in changes.items() if change.rank}
    if not changes:
        raise UserError("merge.nothing_left")
    yield StageChanged(stage="writing")
    metadata = resized_metadata(settings, file, changes, output.stem)
    save_result(output, changes, file.vectors(), metadata, settings.precision)
    yield FileSaved(path=output, kind="lora", facts=facts_of(changes, output))


def check_parameters(settings: ResizeSettings) -> None:
    """Raises UserError unless the settings say how small the result is to be."""
    method, parameter = settings.dynamic_method, settings.dynamic_param
    if method is None:
        if settings.rank is None and settings.energy is None:
            raise UserError("resize.no_rank")
        return
    if parameter is None:
        raise UserError("resize.no_parameter", method=method)
    if method == "sv_ratio" and parameter < 1:
        raise UserError("resize.ratio_range", value=parameter)
    if method != "sv_ratio" and parameter > 1:
        raise UserError("resize.share_range", method=method, value=parameter)


def cut(svd: Svd, settings: ResizeSettings, total: float) -> LowRank:
    """One layer in its new rank: that of the dynamic method, or of ``energy``, at most ``rank``.

    ``total`` is the squared norm of the whole change.
    """
    sizes = Sizes.of(settings)
    own = sizes.choose(svd.values, svd.shape, total)
    if settings.dynamic_method and settings.dynamic_param and own:
        plain = replace(sizes, energy=None).choose(svd.values, svd.shape)
        return svd.truncate(min(DYNAMIC[settings.dynamic_method](svd.values, settings.dynamic_param), plain))
    return svd.truncate(own)


def resized_metadata(
    settings: ResizeSettings, file: LoraFile, changes: Mapping[str, LowRank], title: str
) -> dict[str, str]:
    """The file's own entries; what is no longer true of it is put right."""
    steps = settings.model_dump(
        include={"job", "rank", "conv_rank", "energy", "same_rank", "dynamic_method", "dynamic_param", "precision"},
        exclude_none=True,
    )
    made = recipe.lora_metadata(
        title=title,
        family=file.family,
        changes=changes,
        sources=[recipe.Source(file.path, file.metadata)],
        recipe=steps,
    )
    kept = {key: value for key, value in file.metadata.items() if not key.startswith("sshs_")}
    metadata = made | kept | {key: value for key, value in made.items() if key in _CHANGED}
    return recipe.minimal(metadata) if settings.no_metadata else metadata


_CHANGED = frozenset(
    {
        "ss_network_module",
        "ss_network_dim",
        "ss_network_alpha",
        "ss_network_args",
        "ss_output_name",
        "modelspec.title",
        "modelspec.date",
        "modelspec.merged_from",
        "modelspec.implementation_version",
        recipe.RECIPE_KEY,
    }
)
"""Entries that describe the new file, not the training."""
