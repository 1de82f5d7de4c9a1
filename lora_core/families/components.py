"""A model of several networks, each loaded when it is first asked for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from lora_core.families.compact import Storage, shrink_blocks
from lora_core.families.text import Chunker
from lora_core.io.hashes import legacy_model_hash, model_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PredictionType = Literal["epsilon", "v_prediction", "flow"]
NO_FILE = "NOFILE"
"""What sd-scripts writes for the hash of a model that is a folder."""
DENOISER = "unet"
"""The part that takes the noise out, whatever its architecture: LoRA files call it so in every family."""


@dataclass
class ModelSource:
    """Where a model came from, as a LoRA's metadata names it. Hashes are computed when asked for."""

    name: str
    """File or folder name, or the Hugging Face name as typed."""
    path: Path
    vae: Path | None = None
    """The separate VAE, if one was given."""
    variant: str = ""
    """Tells models of one family apart where their LoRAs say so: "schnell" beside FLUX.1's usual "dev"."""

    @cached_property
    def legacy_hash(self) -> str:
        """8 hexadecimal digits, AUTOMATIC1111's old model hash."""
        return legacy_model_hash(self.path) if self.path.is_file() else NO_FILE

    @cached_property
    def sha256(self) -> str:
        return model_hash(self.path) if self.path.is_file() else NO_FILE

    @property
    def vae_name(self) -> str | None:
        return self.vae.name if self.vae else None

    @cached_property
    def vae_legacy_hash(self) -> str | None:
        return legacy_model_hash(self.vae) if self.vae and self.vae.is_file() else None

    @cached_property
    def vae_sha256(self) -> str | None:
        return model_hash(self.vae) if self.vae and self.vae.is_file() else None


class Components:
    """The networks of a model by name ("unet", "vae", "text_encoder" ...): frozen, in evaluation mode, on the device.

    A network is read from its file when it is first asked for, so that the largest two need never be in memory
    together. ``free`` gives its memory back; asked for again, it is read again. The VAE is always float32: half
    precision overflows in many.
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], nn.Module]],
        *,
        device: torch.device,
        dtype: torch.dtype,
        source: ModelSource,
        tokenizers: Mapping[str, "PreTrainedTokenizerBase"],
        prediction_type: PredictionType = "epsilon",
        schedule: Mapping[str, Any] | None = None,
    ):
        self._loaders = dict(loaders)
        self._parts: dict[str, nn.Module] = {}
        self._parked: set[str] = set()
        self._kept: set[str] = set()
        self.device, self.dtype, self.source = device, dtype, source
        self.tokenizers = dict(tokenizers)
        self.prediction_type = prediction_type
        self.schedule: dict[str, Any] = dict(schedule or {})
        """beta_start, beta_end, steps, schedule: the noise schedule the model was trained with."""
        self._storage: dict[str, Storage] = {}
        self.chunkers = {name: Chunker(tokenizer) for name, tokenizer in self.tokenizers.items()}
        """Turn prompts into token ids, and remember them; by the name of the text encoder."""

    @classmethod
    def of(cls, modules: Mapping[str, nn.Module], **facts: Any) -> "Components":
        """Of networks that are in memory already."""
        return cls({name: (lambda module=module: module) for name, module in modules.items()}, **facts)

    def part(self, name: str) -> nn.Module:
        """A network on its device, read now if it is not there."""
        if name not in self._parts:
            network = self._loaders[name]().requires_grad_(False).eval()
            shrink_blocks(network, self._storage.get(name, "full"), self.device)
            self._parts[name] = network.to(self.device)
        if name in self._parked:
            self._parked.discard(name)
            self._parts[name].to(self.device)
        return self._parts[name]

    def store_as(self, storage: Storage, parts: Iterable[str]) -> None:
        """Keep these networks so from when they are read; see ``compact``."""
        assert not self._parts.keys() & set(parts), "read already"
        self._storage |= dict.fromkeys(parts, storage)

    def is_loaded(self, name: str) -> bool:
        return name in self._parts

    def is_parked(self, name: str) -> bool:
        return name in self._parked

    @property
    def loaded(self) -> dict[str, nn.Module]:
        """The networks that are in memory, wherever."""
        return dict(self._parts)

    def park(self, name: str) -> None:
        """Move a network to the processor's memory until it is asked for again."""
        if name in self._parts and self.device.type != "cpu":
            self._parts[name].to("cpu")
            self._parked.add(name)

    def keep(self, name: str) -> None:
        """A network that was changed must not be read again: where it would be freed it is parked."""
        self._kept.add(name)

    def free(self, name: str) -> None:
        """Give a network's memory back."""
        if name in self._kept:
            return self.park(name)
        self._parked.discard(name)
        if self._parts.pop(name, None) is not None and self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def denoiser(self) -> Any:
        return self.part(DENOISER)

    @property
    def vae(self) -> Any:
        return self.part("vae")

    @property
    def text_encoder(self) -> Any:
        """The first, or only, text encoder."""
        return self.part("text_encoder")

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return self.tokenizers["text_encoder"]

    @property
    def chunker(self) -> Chunker:
        return self.chunkers["text_encoder"]

    @cached_property
    def vae_config(self) -> Any:
        """The VAE's configuration, kept when the VAE itself is parked or freed."""
        return self.vae.config

    @cached_property
    def vae_factor(self) -> int:
        """Pixels per latent side: 8 for Stable Diffusion, 4 for the built-in model."""
        return 2 ** (len(self.vae_config.block_out_channels) - 1)
