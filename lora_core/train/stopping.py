"""Text encoders that stop learning before the run ends, as a function of the step."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lora_core.adapters import AdapterNetwork
from lora_core.families.base import DENOISER, Components, Conditioning, ModelFamily
from lora_core.families.encoded import EncodedTexts
from lora_core.settings import AnyModel


def freeze_text_encoders(optimizer: Optimizer) -> None:
    """Their weights take no gradients from now on, and every optimizer passes over weights without gradients.

    The rate in the group stays as it is, because some optimizers that find their own take the first group's for all.
    """
    for group in filter(is_text_encoder, optimizer.param_groups):
        for parameter in group["params"]:
            parameter.requires_grad_(False)
            parameter.grad = None


def is_text_encoder(group: Mapping[str, Any]) -> bool:
    """Whether a group of the optimizer is of a text encoder: the names of groups begin with the part."""
    return str(group["name"]).startswith("text_encoder")


class StoppedTexts(EncodedTexts):
    """Captions as the text encoders with their finished adapters read them: without dropout, and once for all.

    Prior preservation and drift ask while the adapters are switched off: what is read then is kept apart.
    """

    def __init__(self, family: ModelFamily, components: Components, model: AnyModel, network: AdapterNetwork):
        super().__init__(family, components, model)
        self._adapters = [adapter for adapter in network if adapter.part != DENOISER]
        self._of_the_base = EncodedTexts(family, components, model)

    def _one(self, prompt: str, weighted: bool, max_token_length: int | None) -> Conditioning:
        if not any(adapter.effective() for adapter in self._adapters):
            return self._of_the_base._one(prompt, weighted, max_token_length)
        for adapter in self._adapters:
            adapter.eval()
        try:
            return super()._one(prompt, weighted, max_token_length)
        finally:
            for adapter in self._adapters:
                adapter.train()
