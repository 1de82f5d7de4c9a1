"""Prior preservation without regularisation images: the class stays what the source model knows.

Beside the usual loss, the model with the LoRA is asked about the same noisy latents with the class words in place of
the caption ("bear" for "usu bear"), and its answer is compared with that of the source model alone. So the picture of
the character is itself the regularisation image: what it teaches may hang on the trigger words only. This is
differential output preservation, as ai-toolkit has it. sd-scripts' option of that name instead replaces the target of
chosen folders, which still needs pictures of the class.

It takes two more passes through the model, one of them without gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lora_core.adapters import AdapterNetwork

Answer = Callable[[Sequence[str]], Tensor]
"""What the model says about the batch's noisy latents with these captions in place of its own."""


def with_class_words(network: AdapterNetwork, answer: Answer, words: str, batch: int) -> tuple[Tensor, Tensor]:
    """(prediction, target) for the class words: with the adapters, and without them and without gradients."""
    captions = [words] * batch
    with without_adapters(network), torch.no_grad():
        target = answer(captions)
    return answer(captions), target


@contextmanager
def without_adapters(network: AdapterNetwork) -> Iterator[None]:
    """The source model alone, text encoders included; nothing is drawn for dropout meanwhile."""
    before = network.multiplier
    network.multiplier = 0.0
    try:
        yield
    finally:
        network.multiplier = before
