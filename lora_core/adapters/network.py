"""All adapters of a model, as one thing to train, switch on and off, save and load."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lora_core.adapters.base import Adapter, Dropout, Frozen, Part
from lora_core.adapters.dora import MAGNITUDE, Dora, DoraLoha, DoraLokr
from lora_core.adapters.keys import by_layer, check_same_layers, key
from lora_core.adapters.locon import Locon
from lora_core.adapters.loha import Loha
from lora_core.adapters.lokr import Lokr
from lora_core.adapters.lora import Lora, SharedInput
from lora_core.adapters.oft import BLOCKS, Oft
from lora_core.adapters.pissa import PissaLocon, PissaLora
from lora_core.errors import UserError
from lora_core.selection import Choice
from lora_core.settings import NetworkSettings

if TYPE_CHECKING:
    from lora_core.families.base import Target

ALGORITHMS: dict[str, type[Adapter]] = {
    "lora": Lora,
    "locon": Locon,
    "loha": Loha,
    "lokr": Lokr,
    "dora": Dora,
    "oft": Oft,
}
DECOMPOSED: dict[str, type[Adapter]] = {"loha": DoraLoha, "lokr": DoraLokr}
PRINCIPAL: dict[str, type[Adapter]] = {"lora": PissaLora, "locon": PissaLocon}

SHARED_INPUTS = (
    ("attn1_to_q", "attn1_to_k", "attn1_to_v"),
    ("attn2_to_k", "attn2_to_v"),
    ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj"),
)
"""Ends of the names of layers that are called with the same tensor."""


class AdapterNetwork(nn.Module):
    """The adapters by name, in the order of the targets."""

    def __init__(self, adapters: Iterable[Adapter]):
        super().__init__()
        by_name = nn.ModuleDict({adapter.name: adapter for adapter in adapters})
        self.adapters: Mapping[str, Adapter] = by_name  # type: ignore[assignment]
        self._groups = share_inputs(self.adapters)

    @classmethod
    def create(
        cls,
        targets: Sequence["Target"],
        settings: NetworkSettings,
        seed: int,
        choices: Mapping[str, Choice] | None = None,
    ) -> "AdapterNetwork":
        """New adapters that change nothing yet. Each starts from a seed of its own, made of ``seed`` and its name.

        ``choices`` are the targets to take, by name, each with its own sizes and rate; None: all, all alike.
        """
        everything = {target.name: Choice(settings) for target in targets}
        choices = everything if choices is None else choices
        found = [_created(t, choices[t.name], _generator(seed, t.name)) for t in targets if t.name in choices]
        assert found, "no layer to put an adapter on"
        return cls(found)

    @classmethod
    def continued(
        cls,
        targets: Sequence["Target"],
        settings: NetworkSettings,
        seed: int,
        state: Mapping[str, Tensor],
        choices: Mapping[str, Choice] | None = None,
    ) -> "AdapterNetwork":
        """As ``create``, but layers that a file has go on from its numbers, with its ranks if so set.

        Raises UserError for a file of another algorithm or with layers that are not trained, and, unless its ranks are
        taken, for another rank or alpha.
        """
        layers, names = by_layer(state), {t.name for t in targets if choices is None or t.name in choices}
        if not layers:
            raise UserError("adapter.empty")
        if extra := sorted(layers.keys() - names):
            raise UserError("adapter.not_trained_layer", layer=extra[0], count=len(extra))
        network = cls.create(targets, settings, seed, choices)
        algorithm = algorithm_for(settings)
        if not settings.dim_from_weights:
            for name, tensors in layers.items():
                network.adapters[name].load(tensors)
            return network
        dropout = Dropout.of(settings)
        found = []
        for adapter in network:
            if adapter.name in layers:
                own = layers[adapter.name]
                read = algorithm.from_tensors(adapter.name, adapter.layer, adapter.part, own, dropout)
                read.take_options_of(adapter)
                adapter = read
            found.append(adapter)
        return cls(found)

    @classmethod
    def from_kohya(cls, targets: Sequence["Target"], state: Mapping[str, Tensor]) -> "AdapterNetwork":
        """Adapters on the layers that a file names, with its algorithm, ranks and alphas.

        Raises UserError for a layer the model does not have, or an empty file.
        """
        layers, by_name = by_layer(state), {target.name: target for target in targets}
        if not layers:
            raise UserError("adapter.empty")
        check_same_layers(layers, layers.keys() & by_name.keys())
        chosen = [target for target in targets if target.name in layers]
        found = ((t, layers[t.name]) for t in chosen)
        return cls(algorithm_of(own).from_tensors(t.name, _layer(t), t.part, own) for t, own in found)

    # ---- on and off --------------------------------------------------------------------------------------------

    def attach(self) -> "AdapterNetwork":
        """Puts every adapter on its layer."""
        for adapter in self:
            adapter.attach()
        return self

    def detach(self) -> "AdapterNetwork":
        """Takes every adapter off: the model is the base again, bit for bit."""
        for adapter in reversed(list(self)):
            adapter.detach()
        for group in self._groups:
            group.forget()
        return self

    @property
    def attached(self) -> bool:
        return all(adapter.attached for adapter in self)

    @property
    def multiplier(self) -> float:
        """Strength of the whole network, as in <lora:name:0.8>; 0 is the base model."""
        return next(iter(self)).multiplier

    @multiplier.setter
    def multiplier(self, value: float) -> None:
        for adapter in self:
            adapter.multiplier = float(value)

    # ---- what there is -----------------------------------------------------------------------------------------

    def __iter__(self):
        return iter(self.adapters.values())

    def of(self, part: Part | None = None) -> list[Adapter]:
        """The adapters of one part of the model, or all."""
        return [adapter for adapter in self if part in (None, adapter.part)]

    def parameters_of(self, part: Part) -> list[nn.Parameter]:
        return [parameter for adapter in self.of(part) for parameter in adapter.parameters()]

    def count_modules(self, part: Part | None = None) -> int:
        return len(self.of(part))

    def count_parameters(self, part: Part | None = None) -> int:
        return sum(parameter.numel() for adapter in self.of(part) for parameter in adapter.parameters())

    # ---- files -------------------------------------------------------------------------------------------------

    def state_dict_kohya(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """What a LoRA file holds, on the CPU."""
        return {
            key(adapter.name, kind): tensor.to("cpu", dtype, copy=True).contiguous()
            for adapter in self
            for kind, tensor in adapter.tensors().items()
        }

    def load_kohya(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a file's numbers. Raises UserError unless it has exactly these layers, ranks and alphas."""
        layers = by_layer(state)
        check_same_layers(layers, self.adapters.keys())
        for adapter in self:
            adapter.load(layers[adapter.name])

    # ---- between steps -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def scale_weight_norms(self, limit: float) -> tuple[Tensor, Tensor]:
        """Shrinks every update whose Frobenius norm exceeds ``limit`` to it, all its matrices alike.

        Returns how many were shrunk and the mean norm afterwards, as tensors on the device: reading them would wait.
        """
        norms_M = torch.stack([adapter.weight_norm() for adapter in self])
        ratios_M = limit / norms_M.clamp(min=limit)
        factors = [adapter.factors() for adapter in self]
        roots = {count: (ratios_M ** (1 / count)).unbind() for count in {len(own) for own in factors}}
        matrices, ratios = [], []
        for number, own in enumerate(factors):
            matrices += own
            ratios += [roots[len(own)][number]] * len(own)
        torch._foreach_mul_(matrices, ratios)
        return (norms_M > limit).sum(), norms_M.clamp(max=limit).mean()


def algorithm_for(settings: NetworkSettings) -> type[Adapter]:
    """The class of new adapters."""
    if getattr(settings, "weight_decompose", False):
        return DECOMPOSED[settings.algo]
    if getattr(settings, "init", "") == "pissa":
        return PRINCIPAL[settings.algo]
    return ALGORITHMS[settings.algo]


def algorithm_of(tensors: Mapping[str, Tensor]) -> type[Adapter]:
    """The algorithm that wrote a layer's tensors; LoCon's way of LoRA, which takes every layer, where no other did."""
    if BLOCKS in tensors:
        return Oft
    for beginning, name in (("hada_", "loha"), ("lokr_", "lokr")):
        if any(kind.startswith(beginning) for kind in tensors):
            return DECOMPOSED[name] if MAGNITUDE in tensors else ALGORITHMS[name]
    return Dora if MAGNITUDE in tensors else Locon


def _layer(target: "Target") -> Frozen:
    assert isinstance(target.module, nn.Linear | nn.Conv2d), f"{target.name}: no linear layer and no convolution"
    return target.module


def _created(target: "Target", choice: Choice, generator: torch.Generator) -> Adapter:
    algorithm = algorithm_for(choice.settings)
    adapter = algorithm.create(target.name, _layer(target), target.part, choice.settings, generator)
    adapter.rate = choice.rate
    return adapter


def share_inputs(adapters: Mapping[str, Adapter]) -> list[SharedInput]:
    """Joins the adapters whose layers are called with the same input, where the algorithm computes them together."""
    plain = {name: a for name, a in adapters.items() if isinstance(a, Lora) and not isinstance(a, Dora)}
    groups = []
    for first, *others in SHARED_INPUTS:
        for name in [n for n in plain if n.endswith(first)]:
            stem = name.removesuffix(first)
            members = [plain[n] for n in (name, *(stem + other for other in others)) if n in plain]
            if len(members) > 1 and len({m.down.shape[1] for m in members}) == 1:
                group = SharedInput(members)
                for member in members:
                    member.together = group
                groups.append(group)
    return groups


def _generator(seed: int, name: str) -> torch.Generator:
    """Random numbers that depend on nothing but the seed and the layer's name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
