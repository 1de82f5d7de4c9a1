"""Parameter groups: one for each part of the model, split where layers or matrices learn at rates of their own."""

from collections.abc import Iterable
from typing import Any

from lora_core.adapters import AdapterNetwork
from lora_core.settings import NetworkSettings

Group = dict[str, Any]

UP = "up"
"""Added to a part's name for the matrices that LoRA+ trains faster."""


def split_groups(groups: Iterable[Group], network: AdapterNetwork, settings: NetworkSettings) -> list[Group]:
    """The groups of the parts (dicts with ``params``, ``lr``, ``base_lr`` and ``name``) by rate.

    A group that nothing divides stays as it is. Of several rates of a part the chart shows the highest: a line for each
    block would hide the schedule.
    """
    return [split for group in groups for split in _split(group, network, settings)]


def _split(group: Group, network: AdapterNetwork, settings: NetworkSettings) -> list[Group]:
    part = group["name"]
    up_ratio = settings.up_ratio(part) if hasattr(settings, "up_ratio") else 1.0
    found: dict[tuple[float, bool], list[Any]] = {}
    for adapter in network.of(part):
        faster = {id(parameter) for parameter in adapter.up_parameters()} if up_ratio != 1 else set()
        for parameter in adapter.parameters():
            found.setdefault((adapter.rate, id(parameter) in faster), []).append(parameter)
    if len(found) < 2 and all(key == (1.0, False) for key in found):
        return [group]
    highest = {up: max(rate for rate, is_up in found if is_up == up) for _, up in found}
    return [
        _with_rate(group, params, rate * (up_ratio if up else 1.0), up=up, charted=rate == highest[up])
        for (rate, up), params in sorted(found.items(), key=lambda item: (item[0][1], -item[0][0]))
    ]


def _with_rate(group: Group, params: list[Any], factor: float, *, up: bool, charted: bool) -> Group:
    name = f"{group['name']} {UP}" if up else group["name"]
    rates = {key: group[key] * factor for key in ("lr", "base_lr") if group.get(key) is not None}
    return {**group, **rates, "params": params, "name": name, "charted": charted}
