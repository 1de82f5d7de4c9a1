"""Texts after the text encoders have stopped learning: read once, with the adapters or without."""

import pytest
import torch

from lora_core.adapters import AdapterNetwork
from lora_core.families import FAMILIES
from lora_core.settings import LoraSettings, Sd1Model
from lora_core.train.preservation import without_adapters
from lora_core.train.stopping import StoppedTexts
from tests.models import tiny_sd_folder

WORDS = ["bear"]


@pytest.fixture
def stopped(tmp_path):
    """The texts, and what the text encoder itself says of the words."""
    family, model = FAMILIES["sd1"], Sd1Model(base=str(tiny_sd_folder(tmp_path / "tiny")))
    components = family.load(model, dtype=torch.float32, device=torch.device("cpu"))
    targets = family.adapter_targets(components, text_parts=("text_encoder",))
    network = AdapterNetwork.create(targets, LoraSettings(rank=4, network_dropout=0.5), seed=0).attach().train()
    for adapter in network:
        adapter.up.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def said():
        network.eval()
        hidden = family.encode_prompts(components, WORDS, model).hidden
        network.train()
        return hidden

    return StoppedTexts(family, components, model, network), network, said


@pytest.mark.parametrize("base_first", [True, False])
def test_what_the_base_model_reads_is_not_taken_for_what_the_lora_reads(stopped, base_first):
    texts, network, said = stopped
    with without_adapters(network):
        of_base = said()
        if base_first:
            texts(WORDS)
    of_lora = said()
    assert not torch.allclose(of_base, of_lora, atol=1e-3)
    for _ in range(2):
        assert torch.equal(texts(WORDS).hidden, of_lora)
        with without_adapters(network):
            assert torch.equal(texts(WORDS).hidden, of_base)
    assert all(adapter.training for adapter in network)
