"""LoRAs put into a model's weights, and taken out again to the last bit.

The change is written into the weights, not added while drawing: pictures take as long as the base model's, and every
algorithm and spelling that can be merged can be drawn with. The weights from before are kept, on a graphics card's
machine in the processor's memory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lora_core.errors import UserError
from lora_core.families.base import Components, ModelFamily
from lora_core.generate.tags import Worn
from lora_core.merge.blocks import parse
from lora_core.merge.layer import Change
from lora_core.merge.lora import LoraFile, load_lora
from lora_core.merge.lowrank import LowRank


class _Read:
    """A LoRA in memory, with what is asked of it layer by layer."""

    def __init__(self, file: LoraFile):
        self.file = file
        self.matrices = frozenset(file.names())
        self.on_base = frozenset(file.needs_base())
        self.vectors = file.vectors()


class _Part(NamedTuple):
    """A LoRA's say in one layer."""

    read: _Read
    strength: float


class LoraSwap:
    """The LoRAs in one model. They stay in place between pictures, until others are wanted."""

    def __init__(self, family: ModelFamily, components: Components):
        self.family, self.components = family, components
        self.now: tuple[Worn, ...] = ()
        self.left_out: frozenset[str] = frozenset()
        """Layers that stay the base model's, whatever a file has for them."""
        self._layers: Mapping[str, nn.Module] = {}
        self._before: list[tuple[nn.Parameter, Tensor]] = []
        self._files: dict[Path, _Read] = {}

    def wear(self, loras: Sequence[Worn]) -> None:
        """From now on the model has these LoRAs and no others. Raises UserError; the model is then the base."""
        wanted = tuple(lora for lora in loras if not lora.does_nothing)
        if wanted == self.now:
            return
        self.take_off()
        self._files = {path: file for path, file in self._files.items() if path in {lora.path for lora in wanted}}
        try:
            self._put_on(wanted)
        except BaseException:
            self.take_off()
            raise
        self.now = wanted

    def take_off(self) -> None:
        """The base model again: its weights are the very numbers from before."""
        for parameter, data in reversed(self._before):
            parameter.data = data.to(parameter.device)
        self._before.clear()
        self.now = ()

    def reset(self) -> None:
        """As when it was new: the base model, and nothing remembered of files and layers that may be others by now."""
        self.take_off()
        self._files, self._layers, self.left_out = {}, {}, frozenset()

    def _put_on(self, loras: Sequence[Worn]) -> None:
        if not loras:
            return
        self._layers = self._layers or layers_of(self.family, self.components)
        parts: dict[str, list[_Part]] = {}
        for lora in loras:
            read = self._read(lora.path)
            weights = parse(lora.layers, read.file.family)
            for layer in (layer for layer in read.file.layers if layer not in self.left_out):
                strength = lora.text_strength if layer.startswith("lora_te") else lora.strength
                if weight := strength * weights.of(layer):
                    parts.setdefault(layer, []).append(_Part(read, weight))
        for layer, own in parts.items():
            self._change(layer, [part for part in own if layer in part.read.matrices])
            self._add_vectors(layer, own)

    def _read(self, path: Path) -> _Read:
        if path not in self._files:
            self._files[path] = _Read(load_lora(path))
        return self._files[path]

    def _module(self, layer: str) -> nn.Module:
        if layer not in self._layers:
            raise UserError("preview.no_layer", layer=layer, base=self.components.source.name)
        return self._layers[layer]

    def _change(self, layer: str, parts: Sequence[_Part]) -> None:
        """Every LoRA's change of one weight, counted from the base model's, added in float32."""
        if not parts:
            return
        weight: nn.Parameter = self._module(layer).weight
        whole = weight.data.float()
        for read, strength in parts:
            base = weight.data.float().cpu().numpy() if layer in read.on_base else None
            whole = whole + strength * self._delta(layer, read.file.change(layer, base), weight)
        self._replace(weight, whole)

    def _delta(self, layer: str, change: Change, weight: Tensor) -> Tensor:
        if weight.shape[0] != change.shape[0] or weight.numel() != int(np.prod(change.shape, dtype=np.int64)):
            raise UserError("preview.no_layer", layer=layer, base=self.components.source.name)
        if isinstance(change, LowRank):
            up, down = (torch.from_numpy(np.ascontiguousarray(f)).to(weight.device) for f in (change.up, change.down))
            return (up.float() @ down.float()).view(weight.shape)
        return torch.from_numpy(change.dense()).to(weight.device).view(weight.shape)

    def _add_vectors(self, layer: str, parts: Sequence[_Part]) -> None:
        """What LoRAs add to norms and biases."""
        for read, strength in parts:
            for kind, vector in read.vectors.get(layer, {}).items():
                module = self._module(layer)
                target = module.weight if kind == "w_norm" else getattr(module, "bias", None)
                if target is not None:
                    added = torch.as_tensor(vector).to(target.device).float().view(target.shape)
                    self._replace(target, target.data.float() + strength * added)

    def _replace(self, parameter: nn.Parameter, whole: Tensor) -> None:
        before = parameter.data
        self._before.append((parameter, before.cpu()))  # on the processor: the tensor itself, not a copy
        parameter.data = whole.to(before.dtype)


def layers_of(family: ModelFamily, components: Components) -> dict[str, nn.Module]:
    """Every layer that a LoRA may change, by its name in LoRA files."""
    named = getattr(family, "named_layers", None)
    if named is not None:
        return named(components)
    targets = family.adapter_targets(components, text_parts=family.trainable_text_parts, convolutions=True)
    return {target.name: target.module for target in targets}
