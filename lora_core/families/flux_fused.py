"""FLUX.1's transformer with the linear layers that its authors gave it.

diffusers has query, key and value apart; the files of Black Forest Labs, and every LoRA of theirs, have them in one
layer with one alpha. Adapters that sit on the parts would have to be merged into a layer of three or four times the
rank, whose alpha then says something else. So the layers are joined here, before weights are put in: an adapter sits on
a real linear layer.
"""

import torch
from torch import Tensor, nn


def join_layers(transformer: nn.Module) -> None:
    """Puts joined linear layers into a transformer that has no weights yet (on the meta device)."""
    for block in transformer.transformer_blocks:
        _join_attention(block.attn, ("to_q", "to_k", "to_v"), "to_qkv")
        _join_attention(block.attn, ("add_q_proj", "add_k_proj", "add_v_proj"), "to_added_qkv")
    for block in transformer.single_transformer_blocks:
        _join_single(block)


def _join_attention(attention: nn.Module, parts: tuple[str, ...], name: str) -> None:
    setattr(attention, name, _joined([getattr(attention, part) for part in parts]))
    _drop(attention, parts)


def _join_single(block: nn.Module) -> None:
    attention = block.attn
    qkv = [attention.to_q, attention.to_k, attention.to_v]
    block.linear1 = _joined([*qkv, block.proj_mlp])
    sizes = [sum(part.out_features for part in qkv), block.proj_mlp.out_features]
    _drop(attention, ("to_q", "to_k", "to_v"))
    outputs = OneInput(block.linear1, sizes)
    attention.to_qkv, block.proj_mlp = Outputs(outputs, 0), Outputs(outputs, 1)


def _drop(attention: nn.Module, parts: tuple[str, ...]) -> None:
    for part in parts:
        delattr(attention, part)
    attention.fused_projections = True  # diffusers then reads to_qkv and to_added_qkv


def _joined(parts: list[nn.Linear]) -> nn.Linear:
    first, outputs = parts[0], sum(part.out_features for part in parts)
    weight = first.weight
    return nn.Linear(first.in_features, outputs, first.bias is not None, device=weight.device, dtype=weight.dtype)


class OneInput:
    """A linear layer whose outputs are asked for one part after another with the same input: computed once.

    A call with another input, with one that was changed in place, or for a part that was fetched before, computes anew;
    nothing relies on the order, so gradient checkpointing may call again as it likes.
    """

    def __init__(self, layer: nn.Linear, sizes: list[int]):
        self._layer, self._sizes = layer, sizes
        self._input: Tensor | None = None
        self._state: tuple[object, ...] = ()
        self._waiting: dict[int, Tensor] = {}

    def part(self, x: Tensor, number: int) -> Tensor:
        state = torch.is_grad_enabled(), None if x.is_inference() else x._version
        if x is not self._input or state != self._state or number not in self._waiting:
            self._waiting = dict(enumerate(self._layer(x).split(self._sizes, -1)))
            self._input, self._state = x, state
        answer = self._waiting.pop(number)
        if not self._waiting:
            self._input = None
        return answer


class Outputs(nn.Module):
    """One part of the outputs of a linear layer that stands elsewhere in the network."""

    def __init__(self, outputs: OneInput, number: int):
        super().__init__()
        self._outputs, self._number = outputs, number  # OneInput is no module: the layer is registered once, as linear1

    def forward(self, x: Tensor) -> Tensor:
        return self._outputs.part(x, self._number)
