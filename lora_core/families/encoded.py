"""Texts encoded once, for as long as the text encoders stay as they are."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from lora_core.families.base import Components, Conditioning, ModelFamily
from lora_core.settings import AnyModel

MOST_TEXTS = 1000
"""Different texts that are kept: 0.2 MB each with Stable Diffusion 1.5, 4 MB with FLUX.1 in bf16."""


class EncodedTexts:
    """What the denoiser is told for a text, computed once.

    Every text is encoded by itself: in a batch the last bits would hang on its neighbours, and so on what was encoded
    before. The results wait in the processor's memory.
    """

    def __init__(self, family: ModelFamily, components: Components, model: AnyModel):
        self._family, self._components, self._model = family, components, model
        self._known: dict[tuple[str, bool, int | None], Conditioning] = {}

    def __call__(
        self, prompts: Sequence[str], *, weighted: bool = False, max_token_length: int | None = None
    ) -> Conditioning:
        """The conditioning of texts, on the device. One that is not known yet is encoded now."""
        rows = [self._one(prompt, weighted, max_token_length) for prompt in prompts]
        return Conditioning.cat(rows).to(self._components.device, non_blocking=True)

    def filling(
        self, prompts: Iterable[str], *, weighted: bool = False, max_token_length: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Encode texts now, yielding (done, total)."""
        prompts = sorted(set(prompts))
        for done, prompt in enumerate(prompts, start=1):
            self._one(prompt, weighted, max_token_length)
            yield done, len(prompts)

    def release_encoders(self) -> None:
        """Give the text encoders' memory back; a new text brings them in again."""
        for part in self._family.text_parts:
            self._components.free(part)

    @torch.no_grad()
    def _one(self, prompt: str, weighted: bool, max_token_length: int | None) -> Conditioning:
        key = prompt, weighted, max_token_length
        if key not in self._known:
            if len(self._known) >= MOST_TEXTS:
                self._known.clear()
            encoded = self._family.encode_prompts(
                self._components, [prompt], self._model, weighted=weighted, max_token_length=max_token_length
            )
            self._known[key] = encoded.kept()
        return self._known[key]
