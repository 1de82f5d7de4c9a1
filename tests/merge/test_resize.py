"""Resizing: the best approximation of each layer, the ranks that the dynamic methods promise, honest metadata."""

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.io.arrays import save_arrays
from lora_core.merge import resize
from lora_core.merge.lora import load_lora
from lora_core.merge.lowrank import LowRank
from lora_core.merge.recipe import read_recipe
from lora_core.settings.tools import ResizeSettings
from tests.merge import makers

LAYERS = {name: shape for name, shape in makers.SMALL["sd1"].items() if np.prod(shape) < 2_000_000}


@pytest.fixture
def lora(tmp_path):
    path = tmp_path / "big.safetensors"
    metadata = makers.METADATA["sd1"] | {"ss_network_dim": "6", "ss_network_alpha": "2.0", "ss_learning_rate": "1e-4"}
    save_arrays(makers.lora_state(LAYERS, rank=6, seed=1), metadata, path, "float")
    return path


def run(lora, name="small", **options):
    output = lora.with_name(f"{name}.safetensors")
    list(resize.resize(ResizeSettings(lora=lora, output=output, precision="float", **options)))
    return load_lora(output)


def spectra(file) -> dict[str, np.ndarray]:
    return {
        name: np.linalg.svd(file.change(name).dense().reshape(file.shape(name)[0], -1), compute_uv=False)
        for name in LAYERS
    }


@pytest.mark.parametrize("rank", [1, 4, 6, 64])
def test_a_fixed_rank_is_optimal(lora, rank):
    before, after = load_lora(lora), run(lora, rank=rank)
    for name, values in spectra(before).items():
        missed = np.linalg.norm(before.change(name).dense() - after.change(name).dense())
        best = np.sqrt(np.sum(values[min(rank, 6) :][:6] ** 2)) if rank < 6 else 0
        assert missed == pytest.approx(best, rel=1e-5, abs=1e-5 * float(values[0]))
        assert after.change(name).rank == min(rank, 6)


def test_convolutions_have_their_own_rank(lora):
    after = run(lora, rank=4, conv_rank=2)
    assert {n: after.change(n).rank for n in LAYERS} == {n: 2 if s[2:] == (3, 3) else 4 for n, s in LAYERS.items()}


VALUES = np.array([8.0, 4.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("method", "parameter", "rank"),
    [
        ("sv_ratio", 1, 1),
        ("sv_ratio", 2, 2),
        ("sv_ratio", 3.9, 2),
        ("sv_ratio", 100, 4),
        ("sv_cumulative", 8 / 15, 1),
        ("sv_cumulative", 0.54, 2),
        ("sv_cumulative", 1, 4),
        ("sv_fro", np.sqrt(64 / 85), 1),
        ("sv_fro", np.sqrt(80 / 85), 2),
        ("sv_fro", np.sqrt(80.1 / 85), 3),
        ("sv_fro", 1, 4),
    ],
)
def test_dynamic_methods_keep_what_they_promise_and_no_more(method, parameter, rank):
    assert resize.DYNAMIC[method](VALUES, parameter) == rank


@pytest.mark.parametrize(("method", "parameter"), [("sv_ratio", 1.2), ("sv_cumulative", 0.7), ("sv_fro", 0.9)])
def test_dynamic_ranks_of_a_file(lora, method, parameter):
    before = load_lora(lora)
    after = run(lora, dynamic_method=method, dynamic_param=parameter, rank=5)
    for name, values in spectra(before).items():
        assert after.change(name).rank == min(5, resize.DYNAMIC[method](values[:6], parameter))


def test_energy_and_one_rank_for_all(lora):
    before, after = spectra(load_lora(lora)), run(lora, energy=0.7)
    for name, values in before.items():
        rank = after.change(name).rank
        assert np.sum(values[:rank] ** 2) >= 0.7 * np.sum(values**2) > np.sum(values[: rank - 1] ** 2)
    alike = run(lora, "alike", energy=0.7, same_rank=True)
    largest = max(after.change(n).rank for n, s in LAYERS.items() if s[2:] != (3, 3))
    assert {alike.change(n).rank for n, s in LAYERS.items() if s[2:] != (3, 3)} == {largest}


@pytest.mark.parametrize("algorithm", ["loha", "lokr", "tucker"])
def test_other_algorithms_become_plain_loras(tmp_path, algorithm):
    path = tmp_path / "big.safetensors"
    layers = {n: s for n, s in LAYERS.items() if np.prod(s) < 500_000}
    save_arrays(makers.lora_state(layers, algorithm, rank=3), makers.METADATA["sd1"], path, "float")
    before, after = load_lora(path), run(path, rank=320)
    for name in layers:
        assert after.algorithm(name) in ("lora", "locon")
        wanted = before.change(name).dense()
        np.testing.assert_allclose(after.change(name).dense(), wanted, atol=1e-4 * np.linalg.norm(wanted))


def test_metadata_stays_true(lora):
    metadata = run(lora, rank=3).metadata
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("3", "3")
    assert metadata["ss_learning_rate"] == "1e-4"
    assert metadata["modelspec.merged_from"] == "big"
    assert read_recipe(metadata)["rank"] == 3
    dynamic = run(lora, "dynamic", energy=0.7).metadata
    assert dynamic["ss_network_dim"] in ("Dynamic", "4", "5")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "resize.no_rank"),
        ({"dynamic_method": "sv_fro"}, "resize.no_parameter"),
        ({"dynamic_method": "sv_ratio", "dynamic_param": 0.5}, "resize.ratio_range"),
        ({"dynamic_method": "sv_cumulative", "dynamic_param": 1.5}, "resize.share_range"),
    ],
)
def test_sizes_that_say_nothing(lora, options, key):
    with pytest.raises(UserError) as caught:
        run(lora, **options)
    assert caught.value.key == key


def test_the_whole_matrix_is_never_formed(lora, monkeypatch):
    def forbidden(self):
        raise AssertionError("a whole matrix was formed")

    monkeypatch.setattr(LowRank, "dense", forbidden)
    output = lora.with_name("small.safetensors")
    list(resize.resize(ResizeSettings(lora=lora, output=output, rank=2)))
    assert output.exists()
