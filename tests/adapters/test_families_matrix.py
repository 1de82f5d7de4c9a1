"""Every algorithm on the tiny model of every family: it starts as nothing, is one change however it is used, and its
file says the same to other programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_core.adapters import ALGORITHMS, AdapterNetwork
from lora_core.adapters.base import Adapter
from lora_core.adapters.files import load_lora, save_lora
from lora_core.families import FAMILIES
from lora_core.families.base import Components, Target
from lora_core.inspect.weights import inspect_weights
from lora_core.io.safetensors import read_tensors
from lora_core.merge import names
from lora_core.settings import NetworkSettings, RunSettings
from tests.models import tiny_sd_folder
from tests.models_flux import T5_LENGTH, tiny_flux_folder
from tests.models_sdxl import tiny_file

FAMILY_NAMES = ("sd1", "sd2", "sdxl", "flux")
KINDS = {"sd1": {"linear", "1x1"}, "sd2": {"linear"}, "sdxl": {"linear"}, "flux": {"linear"}}
"""Kinds of layers among the targets: SD 1 goes into attention through 1x1 convolutions."""
WITH_CONVOLUTIONS = {"linear", "1x1", "3x3"}
"""The same, but for FLUX, where an algorithm trains convolutions: 1x1 are shortcuts."""
KNOWN_AS = {"sd2": "sd1"}
"""Whose names the file has. SD 2's are those of SD 1: the width of the text tells them apart, which is small here."""
PROMPTS = ("usu bear", "a red bear in the snow")

VARIANTS: dict[str, dict] = {
    "lora": {"algo": "lora"},
    "lora rs": {"algo": "lora", "rs_lora": True},
    "lora pissa": {"algo": "lora", "init": "pissa"},
    "locon": {"algo": "locon", "conv_rank": 2, "conv_alpha": 1.0},
    "locon rs": {"algo": "locon", "conv_rank": 2, "conv_alpha": 1.0, "rs_lora": True},
    "locon pissa": {"algo": "locon", "conv_rank": 2, "conv_alpha": 1.0, "init": "pissa"},
    "loha": {"algo": "loha", "conv_rank": 2, "conv_alpha": 1.0},
    "loha dora": {"algo": "loha", "conv_rank": 2, "conv_alpha": 1.0, "weight_decompose": True},
    "lokr": {"algo": "lokr", "conv_rank": 2, "conv_alpha": 1.0, "factor": 4},
    "lokr full": {"algo": "lokr", "conv_rank": 2, "factor": 4, "full_matrix": True},
    "lokr dora": {"algo": "lokr", "conv_rank": 2, "conv_alpha": 1.0, "factor": 4, "weight_decompose": True},
    "dora": {"algo": "dora", "conv_rank": 2, "conv_alpha": 1.0},
    "oft": {"algo": "oft", "rank": 4, "conv_rank": 4},
}
on_all = pytest.mark.parametrize(
    ("family", "variant"), [(family, variant) for family in FAMILY_NAMES for variant in VARIANTS]
)


def settings_of(variant: str) -> NetworkSettings:
    values = {"rank": 4, "alpha": 2.0} | VARIANTS[variant]
    if values["algo"] == "oft":
        del values["alpha"]
    return RunSettings.model_validate({"network": values}).network


@dataclass
class Tiny:
    """A loaded tiny model, which every test leaves as it found it."""

    family: str
    components: Components
    answer: Callable[[], Tensor]
    """The denoiser's answer to fixed noise and prompts, through the text encoders."""
    before: Tensor
    """The answer of the bare model."""
    trained: dict[str, AdapterNetwork] = field(default_factory=dict)

    def targets(self, settings: NetworkSettings) -> list[Target]:
        family = FAMILIES[self.family]
        parts = family.trainable_text_parts
        return family.adapter_targets(self.components, text_parts=parts, convolutions=settings.convolutions)

    def new(self, variant: str, seed: int = 1) -> AdapterNetwork:
        settings = settings_of(variant)
        return AdapterNetwork.create(self.targets(settings), settings, seed).eval()

    def network(self, variant: str) -> AdapterNetwork:
        """A trained one, not attached; no test changes its numbers."""
        if variant not in self.trained:
            self.trained[variant] = moved(self.new(variant))
        return self.trained[variant]


def make_tiny(family: str, folder: Path) -> Tiny:
    base = {
        "sd1": lambda: tiny_sd_folder(folder / "sd1"),
        "sd2": lambda: tiny_file(folder / "sd2.safetensors", "sd2"),
        "sdxl": lambda: tiny_file(folder / "sdxl.safetensors", "sdxl"),
        "flux": lambda: tiny_flux_folder(folder / "flux"),
    }[family]()
    length = {"t5_max_token_length": T5_LENGTH} if family == "flux" else {}
    model = RunSettings.model_validate({"model": {"family": family, "base": str(base)} | length}).model
    kind = FAMILIES[family]
    components = kind.load(model, dtype=torch.float32, device=torch.device("cpu"))
    draws = torch.Generator().manual_seed(5)
    noisy = torch.randn(2, kind.drawing(components).channels, 8, 8, generator=draws)
    frames = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)

    @torch.no_grad()
    def answer() -> Tensor:
        conditioning = kind.encode_prompts(components, PROMPTS, model)
        return kind.predict(components, noisy, torch.tensor([40.0, 700.0]), conditioning, frames)

    return Tiny(family, components, answer, answer())


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Callable[[str], Tiny]:
    """The tiny models by family, each made when it is first asked for."""
    made: dict[str, Tiny] = {}
    folder = tmp_path_factory.mktemp("matrix")

    def model(family: str) -> Tiny:
        if family not in made:
            made[family] = make_tiny(family, folder)
        return made[family]

    return model


@pytest.fixture
def tiny(models, family: str) -> Iterator[Tiny]:
    model = models(family)
    yield model
    for target in model.targets(settings_of("locon")):
        target.module.__dict__.pop("forward", None)  # a test that failed half-way spoils no other
    model.trained = {name: network for name, network in model.trained.items() if not network.attached}


def moved(network: AdapterNetwork) -> AdapterNetwork:
    """As after some training: every number is another one, about as far as it may be in a LoRA that is of use."""
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draws)
    return network


@contextmanager
def applied(network: AdapterNetwork) -> Iterator[None]:
    """Inside, the changes are part of the model's own weights."""
    kept = {adapter.name: adapter.layer.weight.data for adapter in network}
    try:
        for adapter in network:
            adapter.layer.weight.data = adapter.apply_to(adapter.layer.weight)
        yield
    finally:
        for adapter in network:
            adapter.layer.weight.data = kept[adapter.name]


def kind_of(layer: nn.Module) -> str:
    return f"{layer.kernel_size[0]}x{layer.kernel_size[0]}" if isinstance(layer, nn.Conv2d) else "linear"


def one_of_each_kind(network: AdapterNetwork) -> list[Adapter]:
    """For each part of the model, the first layer of each kind, and the first of several shapes."""
    found: dict[tuple, Adapter] = {}
    for adapter in network:
        found.setdefault((adapter.part, kind_of(adapter.layer), tuple(adapter.layer.weight.shape)), adapter)
    return list(found.values())


def input_for(layer: nn.Module) -> Tensor:
    draws = torch.Generator().manual_seed(7)
    shape = (2, layer.weight.shape[1], 6, 6) if isinstance(layer, nn.Conv2d) else (2, 5, layer.weight.shape[1])
    return torch.randn(shape, generator=draws)


def bare(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What the layer answers with another weight and no bias."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, None, layer.stride, layer.padding)
    return F.linear(x, weight)


def close(found: Tensor, expected: Tensor, share: float) -> None:
    """Apart by a share of the largest number at most."""
    torch.testing.assert_close(found, expected, rtol=0, atol=share * max(1.0, float(expected.abs().max())))


def test_every_algorithm_is_tried_on_every_family():
    assert {values["algo"] for values in VARIANTS.values()} == set(ALGORITHMS)
    assert set(FAMILY_NAMES) == set(FAMILIES)


@on_all
def test_a_new_network_changes_nothing(tiny, variant):
    assert tiny.before.abs().max() > 0.1
    network = tiny.new(variant).attach()
    # PiSSA takes its start off again: two products that cancel, but for rounding.
    close(tiny.answer(), tiny.before, 1e-5 if "pissa" in variant else 0.0)
    network.detach()
    assert torch.equal(tiny.answer(), tiny.before)


@on_all
@torch.no_grad()
def test_delta_weight_is_the_difference_of_the_forward_pass(tiny, variant, family):
    adapters = one_of_each_kind(tiny.network(variant))
    convolutions = family != "flux" and settings_of(variant).convolutions
    assert {kind_of(adapter.layer) for adapter in adapters} == (WITH_CONVOLUTIONS if convolutions else KINDS[family])
    for adapter in adapters:
        layer, delta = adapter.layer, adapter.delta_weight()
        x = input_for(layer)
        before = layer(x)
        adapter.attach()
        difference = layer(x) - before
        adapter.detach()
        assert delta.shape == layer.weight.shape
        assert delta.abs().max() > 1e-4, adapter.name
        close(difference, bare(layer, x, delta), 1e-5)


@on_all
def test_applied_it_answers_as_attached(tiny, variant):
    network = tiny.network(variant).attach()
    attached = tiny.answer()
    network.detach()
    with applied(network):
        close(tiny.answer(), attached, 1e-4)
    assert (attached - tiny.before).abs().max() > 1e-2, "what is compared is a change"
    assert torch.equal(tiny.answer(), tiny.before)


@on_all
def test_a_file_brings_everything_back(tiny, variant, tmp_path):
    network = tiny.network(variant)
    save_lora(network, {}, tmp_path / "x.safetensors", "float")
    state = read_tensors(tmp_path / "x.safetensors")
    read = AdapterNetwork.from_kohya(tiny.targets(settings_of(variant)), state).eval()
    assert [adapter.name for adapter in read] == [adapter.name for adapter in network]
    again = read.state_dict_kohya()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)
    for mine, theirs in zip(one_of_each_kind(network), one_of_each_kind(read), strict=True):
        close(theirs.delta_weight(), mine.delta_weight(), 1e-6)
    if "pissa" not in variant:  # its file is a LoRA of twice the rank: what was learned less the start
        other = tiny.new(variant, seed=2)
        load_lora(other, tmp_path / "x.safetensors")
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), network.parameters(), strict=True))


@on_all
def test_other_programs_know_the_file(tiny, variant, family, tmp_path):
    """Every layer is one of the family by its name, and the inspector has nothing to warn of."""
    save_lora(tiny.network(variant), {}, tmp_path / "x.safetensors", "float")
    state = read_tensors(tmp_path / "x.safetensors")
    spelled = [names.split_key(key) for key in state]
    assert None not in spelled
    layers = {layer for layer, _ in spelled}
    for name in layers:
        assert names.locate(name, family) == names.Place(name)
    known_as = KNOWN_AS.get(family, family)
    assert names.family_of(layers, {key: tuple(tensor.shape) for key, tensor in state.items()}) == known_as
    report = inspect_weights(tmp_path / "x.safetensors")
    assert report.family == known_as
    assert [finding.message() for finding in report.findings if finding.severity != "note"] == []
