"""Texts encoded once, for as long as the text encoders stay as they are."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch

from lora_core.families.base import Components, Conditioning, ModelFamily
from lora_core.settings import AnyModel

MOST_TEXTS = 1000
"""Different texts that are kept: 0.2 MB each with Stable Diffusion 1.5, 4 MB with FLUX.1 in bf16."""


Key = tuple[str, bool, int | None]
"""A text, whether its weights such as (word:1.2) are read, and its length in tokens if it is not the settings'."""


class TextStore(Protocol):
    """Where encoded texts outlive the run. ``read`` gives None for what is not there or not whole."""

    def read(self, key: Key) -> Conditioning | None: ...

    def write(self, key: Key, conditioning: Conditioning) -> None: ...


class EncodedTexts:
    """What the denoiser is told for a text, computed once.

    Every text is encoded by itself: in a batch the last bits would hang on its neighbours, and so on what was encoded
    before. The results wait in the processor's memory.
    """

    def __init__(self, family: ModelFamily, components: Components, model: AnyModel, store: "TextStore | None" = None):
        self._family, self._components, self._model = family, components, model
        self._store = store
        self._known: dict[Key, Conditioning] = {}

    def __call__(
        self, prompts: Sequence[str], *, weighted: bool = False, max_token_length: int | None = None
    ) -> Conditioning:
        """The conditioning of texts, on the device. One that is not known yet is encoded now."""
        rows = [self._one(prompt, weighted, max_token_length) for prompt in prompts]
        # Moved one by one: they lie in page-locked memory, and what is put together of them would not.
        return Conditioning.cat(row.to(self._components.device, non_blocking=True) for row in rows)

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
            self._known[key] = self._stored(self._store, key) if self._store else self._encoded(key)
        return self._known[key]

    def _stored(self, store: "TextStore", key: Key) -> Conditioning:
        found = store.read(key)
        if found is not None:
            return found.kept()
        encoded = self._encoded(key)
        store.write(key, encoded)
        return encoded

    def _encoded(self, key: Key) -> Conditioning:
        prompt, weighted, length = key
        encoded = self._family.encode_prompts(
            self._components, [prompt], self._model, weighted=weighted, max_token_length=length
        )
        return encoded.kept()
