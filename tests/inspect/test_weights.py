"""Numbers of the weight report against matrices written out in float64."""

import json
import math

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.inspect.report import to_json
from lora_core.inspect.weights import inspect_file, inspect_weights
from lora_core.io.arrays import open_arrays, save_arrays
from lora_core.merge.blocks import block_of
from tests.inspect.samples import trained, write
from tests.merge import makers

NAMES = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_down_blocks_0_resnets_0_conv1": (320, 320, 3, 3),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}
ALGORITHMS = ("lora", "tucker", "loha", "lokr", "lokr both", "full")


def oracle(path, name: str, algorithm: str, shape: tuple[int, ...]) -> np.ndarray:
    """The change as a matrix, float64, by the formulas of the papers."""
    with open_arrays(path) as file:
        own = {key.removeprefix(f"{name}."): file.read(key) for key in file.tensors if key.startswith(f"{name}.")}
    own = {key: values.astype(np.float64) for key, values in own.items()}
    alpha = float(own.get("alpha", np.ones(())))
    if algorithm == "full":
        return own["diff"].reshape(shape[0], -1)
    if algorithm in ("lora", "tucker"):
        up, down = (
            own[f"lora_{side}.weight"].reshape(own[f"lora_{side}.weight"].shape[0], -1) for side in ("up", "down")
        )
        if "lora_mid.weight" in own:
            change = np.einsum("on,nmhw,mi->oihw", up, own["lora_mid.weight"], down)
            return alpha / len(down) * change.reshape(shape[0], -1)
        return alpha / len(down) * up @ down
    if algorithm == "loha":
        first, second = (own[f"hada_w{i}_a"] @ own[f"hada_w{i}_b"] for i in (1, 2))
        return alpha / own["hada_w1_b"].shape[0] * first * second
    second = own["lokr_w2_a"] @ own["lokr_w2_b"]
    first = own["lokr_w1"] if "lokr_w1" in own else own["lokr_w1_a"] @ own["lokr_w1_b"]
    window = shape[2:]
    second = second.reshape(second.shape[0], -1, *window)
    change = np.kron(first.reshape(*first.shape, *[1] * len(window)), second)
    return alpha / own["lokr_w2_b"].shape[0] * change.reshape(shape[0], -1)


@pytest.fixture(params=ALGORITHMS)
def written(request, tmp_path):
    """A file of one algorithm, and the changes in it."""
    path = tmp_path / "lora.safetensors"
    state = makers.lora_state(NAMES, request.param, rank=4, alpha=3.0, seed=2)
    save_arrays(state, {"ss_base_model_version": "sd_v1"}, path, "float")
    return path, {name: oracle(path, name, request.param, shape) for name, shape in NAMES.items()}


def test_norms_spectra_and_shares_are_those_of_the_matrices(written):
    path, changes = written
    report = inspect_weights(path)
    norms = {name: np.linalg.norm(change) for name, change in changes.items()}
    total = math.sqrt(sum(norm**2 for norm in norms.values()))
    assert report.norm == pytest.approx(total, rel=1e-5)
    for module in report.modules:
        change = changes[module.name]
        assert module.norm == pytest.approx(norms[module.name], rel=1e-5)
        assert module.strength == pytest.approx(math.sqrt(np.mean(change**2)), rel=1e-5)
        values = np.linalg.svd(change, compute_uv=False)[: len(module.singular_values)]
        np.testing.assert_allclose(module.singular_values, values, atol=1e-3 * values[0])
        assert math.prod(module.shape) == change.size
    for block in report.blocks:
        own = [norms[name] for name in norms if block_of(name, "sd1") == block.block]
        assert block.norm == pytest.approx(math.sqrt(sum(norm**2 for norm in own)), rel=1e-5)
        assert block.share == pytest.approx(block.norm**2 / total**2, rel=1e-5)
    text = norms["lora_te_text_model_encoder_layers_0_self_attn_q_proj"]
    assert report.shares["te1"] == pytest.approx(text**2 / total**2, rel=1e-5)
    assert sum(report.shares.values()) == pytest.approx(1)


def test_energy_is_what_truncation_keeps(written):
    path, changes = written
    report = inspect_weights(path)
    squares = [np.linalg.svd(change, compute_uv=False) ** 2 for change in changes.values()]
    total = sum(square.sum() for square in squares)

    def kept(rank: int) -> float:
        return sum(square[:rank].sum() for square in squares) / total

    for point in report.energy:
        assert point.share == pytest.approx(kept(point.rank), abs=1e-4)
    for wanted, rank in ((0.95, report.rank_for_95), (0.99, report.rank_for_99)):
        assert rank is not None
        assert kept(rank) >= wanted - 1e-4
        assert rank == 1 or kept(rank - 1) < wanted + 1e-4


def test_columns_that_depend_on_each_other_are_no_matter(tmp_path):
    """Rank 1 written with rank 8."""
    (name, shape), rng = next(iter(NAMES.items())), np.random.default_rng(0)
    up, down = rng.standard_normal((shape[0], 1)), rng.standard_normal((1, shape[1]))
    state = {
        f"{name}.lora_up.weight": np.repeat(up, 8, 1).astype(np.float32),
        f"{name}.lora_down.weight": np.repeat(down, 8, 0).astype(np.float32),
    }
    report = inspect_weights(write(tmp_path / "lora.safetensors", state, {"ss_v2": "False"}, "float"))
    (module,) = report.modules
    assert module.norm == pytest.approx(8 * np.linalg.norm(up) * np.linalg.norm(down), rel=1e-5)
    assert module.effective_rank == pytest.approx(1, abs=0.01)
    assert report.rank_for_99 == 1


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_the_spelling_does_not_change_the_strength(family, tmp_path):
    """A fused layer and its parts are one change of one weight."""
    report = {}
    for style in ("diffusers", "peft"):
        path = tmp_path / f"{style}.safetensors"
        makers.write_lora(path, family, style=style, alpha=None, seed=5)
        report[style] = inspect_weights(path)
    assert report["peft"].norm == pytest.approx(report["diffusers"].norm, rel=1e-6)
    assert {block.block for block in report["peft"].blocks} == {block.block for block in report["diffusers"].blocks}


def test_what_needs_the_base_model_is_said_and_not_guessed(tmp_path):
    path = tmp_path / "ia3.safetensors"
    makers.write_lora(path, "sd1", "ia3")
    report = inspect_weights(path)
    assert {module.norm for module in report.modules} == {None}
    assert [(finding.severity, finding.key) for finding in report.findings] == [("note", "needs_base")]
    assert (report.energy, report.rank_for_99) == ((), None)
    json.dumps(to_json(report), allow_nan=False)


@pytest.mark.parametrize("seed", range(12))
def test_broken_tensors_are_findings_and_never_errors(seed, tmp_path):
    """Shapes cut at random, numbers that are none, halves that are not there."""
    rng = np.random.default_rng(seed)
    algorithm = rng.choice(["lora", "tucker", "loha", "loha tucker", "lokr", "lokr tucker", "full"])
    state = makers.lora_state(makers.SMALL["sd1"], str(algorithm), seed=seed)
    for key in rng.choice(sorted(state), 6, replace=False):
        match rng.integers(4):
            case 0:
                del state[key]
            case 1:
                state[key] = np.full_like(state[key], np.nan)
            case 2:
                state[key] = state[key][..., :1] if state[key].ndim else state[key].reshape(1, 1)
            case 3:
                state[key] = state[key].reshape(-1)[: max(state[key].size // 2, 1)]
    report = inspect_weights(write(tmp_path / "broken.safetensors", state, {"ss_base_model_version": "sd_v1"}))
    json.dumps(to_json(report), allow_nan=False)
    assert any(finding.severity == "error" for finding in report.findings)


def test_a_model_is_no_lora(tmp_path):
    path = write(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": np.zeros((8, 4, 3, 3), np.float32)}, {})
    with pytest.raises(UserError):
        inspect_weights(path)
    report = inspect_file(path)
    assert (report.header.kind, report.weights) == ("vae", None)


def test_weights_are_read_only_when_asked_for(tmp_path):
    path = write(tmp_path / "lora.safetensors", trained("sd1", "small"))
    assert inspect_file(path, weights=False).weights is None
    assert inspect_file(path).weights is not None


def test_vectors_of_norms_have_a_strength_too(tmp_path):
    name, rng = "lora_unet_mid_block_resnets_0_norm1", np.random.default_rng(0)
    vectors = {f"{name}.{key}": rng.standard_normal(1280).astype(np.float32) for key in ("w_norm", "b_norm")}
    state = trained("sd1", "small") | vectors
    report = inspect_weights(write(tmp_path / "norms.safetensors", state, precision="float"))
    (module,) = [module for module in report.modules if module.algorithm == "norm"]
    both = np.concatenate(list(vectors.values()))
    assert module.name == name
    assert module.norm == pytest.approx(np.linalg.norm(both.astype(np.float64)), rel=1e-6)
    assert not [finding for finding in report.findings if finding.severity != "note"]
