"""Every defect we know is found, and good files are left in peace."""

from collections.abc import Callable

import numpy as np
import pytest

from lora_core.i18n import LANGUAGES, catalogue
from lora_core.inspect.header import inspect_header
from lora_core.inspect.weights import inspect_weights
from lora_core.io.arrays import Precision, open_arrays, write_stream
from lora_core.runs import PROJECT
from tests.inspect.samples import State, layers, metadata, trained, write
from tests.merge import makers

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


# ---- planted defects -------------------------------------------------------------------------------------------------


def zero_up(state: State) -> list[str]:
    """A layer that trained nothing."""
    state[f"{UNET}.lora_up.weight"][:] = 0
    return [UNET]


def all_zero(state: State) -> None:
    for key in state:
        if key.endswith("lora_up.weight"):
            state[key][:] = 0


def nan(state: State) -> list[str]:
    state[f"{UNET}.lora_down.weight"][1, 2] = np.nan
    return [UNET]


def infinity(state: State) -> list[str]:
    state[f"{UNET}.lora_up.weight"][0, 0] = np.inf
    return [UNET]


def dead_block(state: State) -> list[str]:
    for key in state:
        if "up_blocks_1_attentions_1" in key and key.endswith("lora_up.weight"):
            state[key] *= np.float32(1e-3)
    return ["OUT04"]


def over_norm(state: State) -> list[str]:
    state[f"{UNET}.lora_up.weight"] *= np.float32(40)
    return [UNET]


def alpha_zero(state: State) -> list[str]:
    state[f"{UNET}.alpha"] = np.float32(0)
    return [UNET]


def alpha_above_rank(state: State) -> None:
    state |= {key: np.float32(64) for key in state if key.endswith("alpha")}


def alpha_mixed(state: State) -> list[str]:
    state[f"{UNET}.alpha"] = np.float32(1)
    return [UNET]


def alpha_missing_some(state: State) -> list[str]:
    del state[f"{UNET}.alpha"]
    return [UNET]


def alpha_missing(state: State) -> None:
    for name in layers(state):
        del state[f"{name}.alpha"]


def alpha_negative(state: State) -> list[str]:
    state[f"{UNET}.alpha"] = np.float32(-4)
    return [UNET]


def oversized(state: State) -> None:
    """Rank 8 of which one direction counts."""
    for key in state:
        if key.endswith("lora_up.weight"):
            state[key][:, 1:] *= np.float32(0.01)


def junk(state: State) -> list[str]:
    state["optimizer.state.0.exp_avg"] = np.zeros(4, np.float32)
    return ["optimizer.state.0.exp_avg"]


def unknown_layer(state: State) -> list[str]:
    new = "lora_unet_sideways_blocks_0_attn1_to_q"
    state |= {key.replace(UNET, new): values for key, values in list(state.items()) if key.startswith(UNET)}
    return [new]


def half(state: State) -> list[str]:
    del state[f"{UNET}.lora_up.weight"]
    return [f"{UNET} (lora_up.weight)"]


def alpha_alone(state: State) -> list[str]:
    del state[f"{UNET}.lora_up.weight"], state[f"{UNET}.lora_down.weight"]
    return [f"{UNET} (weights)"]


def halves_differ(state: State) -> list[str]:
    state[f"{UNET}.lora_up.weight"] = state[f"{UNET}.lora_up.weight"][:, :5]
    return [UNET]


def wrong_shape(state: State) -> list[str]:
    state[f"{UNET}.lora_up.weight"] = state[f"{UNET}.lora_up.weight"][:100]
    return [UNET]


def twice(state: State) -> list[str]:
    dotted = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    state[f"{dotted}.lora_A.weight"] = state[f"{UNET}.lora_down.weight"]
    state[f"{dotted}.lora_B.weight"] = state[f"{UNET}.lora_up.weight"]
    return [dotted]


def strong_text(state: State) -> None:
    for key in state:
        if key.startswith("lora_te") and key.endswith("lora_up.weight"):
            state[key] *= np.float32(30)


DEFECTS: dict[str, tuple[str, Callable[[State], list[str] | None]]] = {
    "a layer that trained nothing": ("zero_layers", zero_up),
    "nothing trained at all": ("nothing_trained", all_zero),
    "NaN": ("not_finite", nan),
    "infinity": ("not_finite", infinity),
    "a dead block": ("dead_blocks", dead_block),
    "a layer far too strong": ("over_norm", over_norm),
    "alpha 0": ("alpha_zero", alpha_zero),
    "alpha above the rank": ("alpha_above_rank", alpha_above_rank),
    "another alpha in one layer": ("alpha_mixed", alpha_mixed),
    "no alpha in one layer": ("alpha_missing_some", alpha_missing_some),
    "no alpha though the training had one": ("alpha_missing", alpha_missing),
    "negative alpha": ("alpha_negative", alpha_negative),
    "a rank much larger than needed": ("rank_oversized", oversized),
    "keys of something else": ("junk", junk),
    "a layer no such model has": ("unknown_layers", unknown_layer),
    "a missing half": ("partial", half),
    "an alpha without weights": ("partial", alpha_alone),
    "halves that do not fit": ("halves_differ", halves_differ),
    "a layer of another size": ("wrong_shape", wrong_shape),
    "a layer in two spellings": ("twice", twice),
    "a text encoder that ran away": ("text_encoder_strong", strong_text),
}


@pytest.fixture(scope="module")
def good() -> State:
    return trained()


@pytest.mark.parametrize(("key", "spoil"), DEFECTS.values(), ids=DEFECTS)
def test_a_planted_defect_is_found_with_its_layers(key, spoil, good, tmp_path):
    state = {name: values.copy() for name, values in good.items()}
    named = spoil(state)
    report = inspect_weights(write(tmp_path / "spoilt.safetensors", state))
    found = {finding.key: finding for finding in report.findings}
    assert key in found, found
    if named is not None:
        assert list(found[key].layers) == named
        assert found[key].count == len(named)


def rounded_alpha(state: State, meta: dict[str, str]) -> None:
    state |= {key: np.float32(0.1) for key in state if key.endswith("alpha")}
    meta["ss_network_alpha"] = "0.1"


def other_rank(state: State, meta: dict[str, str]) -> None:
    meta["ss_network_dim"] = "32"


def other_alpha(state: State, meta: dict[str, str]) -> None:
    meta["ss_network_alpha"] = "1.0"


def test_a_zero_layer_within_the_text_encoder_is_no_clip_skip(good, tmp_path):
    state = {name: values.copy() for name, values in good.items()}
    middle = "lora_te_text_model_encoder_layers_5_mlp_fc1"
    state[f"{middle}.lora_up.weight"][:] = 0
    found = {f.key: f for f in inspect_weights(write(tmp_path / "x.safetensors", state)).findings}
    assert found["zero_layers"].layers == (middle,)
    assert "unused_text_layers" not in found


@pytest.mark.parametrize(
    ("key", "spoil"),
    [("alpha_rounded", rounded_alpha), ("dim_differs", other_rank), ("alpha_differs", other_alpha)],
)
def test_metadata_that_do_not_match_the_tensors_are_found(key, spoil, good, tmp_path):
    state, meta = dict(good), metadata()
    spoil(state, meta)
    assert key in keys_of(inspect_header(write(tmp_path / "spoilt.safetensors", state, meta)))


def test_split_qkv_of_sd_scripts_is_found(tmp_path):
    """Three LoRAs of rank 4 side by side in the fused layer, alpha unchanged."""
    names = ["lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_0_linear1"]
    state = trained("flux", "small", rank=4, only="lora_unet")
    plain = inspect_header(write(tmp_path / "plain.safetensors", state, metadata("flux", 4)))
    assert "alpha_split_qkv" not in keys_of(plain)
    for name, parts in zip(names, (3, 4), strict=True):
        for tensor, axis in (("lora_down.weight", 0), ("lora_up.weight", 1)):
            state[f"{name}.{tensor}"] = np.concatenate([state[f"{name}.{tensor}"]] * parts, axis)
    report = inspect_header(write(tmp_path / "split.safetensors", state, metadata("flux", 4)))
    (finding,) = [finding for finding in report.findings if finding.key == "alpha_split_qkv"]
    assert set(finding.layers) == set(names)


def test_weights_changed_after_saving_are_found(good, tmp_path):
    path = write(tmp_path / "good.safetensors", good)
    assert "hash_differs" not in keys_of(inspect_weights(path))
    with open_arrays(path) as file:
        raw = {name: file.raw(name).copy() for name in file.tensors}
        raw[f"{UNET}.lora_up.weight"][0] ^= 1
        write_stream(file.tensors, lambda name: [raw[name]], file.metadata, tmp_path / "changed.safetensors")
    report = inspect_weights(tmp_path / "changed.safetensors")
    assert "hash_differs" in keys_of(report)
    assert report.stored_hash != report.computed_hash


def test_metadata_changed_after_saving_are_no_matter(good, tmp_path):
    path = write(tmp_path / "good.safetensors", good)
    with open_arrays(path) as file:
        raw = {name: file.raw(name).copy() for name in file.tensors}
        meta = dict(file.metadata) | {"ss_training_comment": "a word more"}
        write_stream(file.tensors, lambda name: [raw[name]], meta, tmp_path / "edited.safetensors")
    assert "hash_differs" not in keys_of(inspect_weights(tmp_path / "edited.safetensors"))


# ---- good files ------------------------------------------------------------------------------------------------------


def plain(family="sd1", size="full", precision: Precision = "fp16", rank=8, alpha: float | None = 4.0, **values):
    meta = metadata(family, rank, alpha)
    return lambda path: write(path, trained(family, size, rank=rank, alpha=alpha, **values), meta, precision)


def made(family="sd1", algorithm="lora", style="kohya", alpha=2.0):
    said = metadata(family, 4, alpha)
    return lambda path: makers.write_lora(path, family, algorithm, style=style, alpha=alpha, metadata=said)


def trained_with_other_alphas_by_block(path):
    state = trained()
    state |= {key: np.float32(2) for key in state if key.endswith("alpha") and "_mid_" in key}
    args = '{"block_alphas": "4,4,4,2,4,4,4"}'
    write(path, state, metadata(ss_network_args=args))


def trained_with_clip_skip(path):
    """The last layer of the text encoder got no gradient: its ups are as they were made, zero."""
    state = trained()
    for key in state:
        if "encoder_layers_11_" in key and key.endswith("lora_up.weight"):
            state[key][:] = 0
    write(path, state)


GOOD = {
    "SD 1, clip skip 2": trained_with_clip_skip,
    "SD 1, rank 8": plain(),
    "SD 1, rank 32, alpha 16": plain(rank=32, alpha=16.0),
    "SD 1, rank 4, alpha 1, bf16": plain(rank=4, alpha=1.0, precision="bf16"),
    "SD 1, alpha equal to rank, float": plain(rank=8, alpha=8.0, precision="float"),
    "SD 1, no alpha": plain(alpha=None),
    "SD 1, U-Net only": plain(only="lora_unet"),
    "SD 1, text encoder only": plain(only="lora_te"),
    "SD 1, layers of very different strength": plain(spread=0.8, seed=3),
    "SD 1, weak text encoder": plain(text=0.05),
    "SD 1 LoCon": plain(size="locon", rank=4, alpha=2.0),
    "SD 1, alphas by block": trained_with_other_alphas_by_block,
    "SD 2": made("sd2"),
    "SDXL": made("sdxl"),
    "SDXL, names of diffusers": made("sdxl", style="diffusers", alpha=None),
    "FLUX": made("flux"),
    "FLUX, names of diffusers": made("flux", style="diffusers", alpha=None),
    "LoHa": made(algorithm="loha"),
    "LoKr": made(algorithm="lokr"),
    "DoRA": made(algorithm="dora lora"),
    "full": made("sdxl", "full"),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_a_good_file_raises_no_alarm(make, tmp_path):
    path = tmp_path / "good.safetensors"
    make(path)
    report = inspect_weights(path)
    assert not [f for f in report.findings if f.severity != "note" or f.key == "rank_oversized"]


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "lokr both", "lokr full"])
def test_a_file_for_a_small_model_is_measured_as_it_is(algorithm, tmp_path):
    """Names as in SD 1, every side an eighth: the sizes are the file's own."""
    rng = np.random.default_rng(0)
    state = {}
    for name, shape in makers.layers_of("sd1", "locon").items():
        small = (max(4, shape[0] // 8), max(4, shape[1] // 8), *shape[2:])
        tensors = makers.layer_tensors(algorithm, small, 2, 2.0, rng)
        state |= {f"{name}.{tensor}": values for tensor, values in tensors.items()}
    report = inspect_weights(write(tmp_path / "small.safetensors", state, {}, "float"))
    assert [finding.message() for finding in report.findings if finding.severity != "note"] == []
    assert "other_size" in keys_of(report)
    assert all(module.norm for module in report.modules)


# ---- sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_findings_are_said_in_every_language(language, good, tmp_path):
    state = {name: values.copy() for name, values in good.items()}
    for spoil in (nan, over_norm, alpha_above_rank, half, junk):
        spoil(state)
    report = inspect_weights(write(tmp_path / "spoilt.safetensors", state))
    assert len({finding.message(language) for finding in report.findings}) == len(report.findings) >= 4


def test_every_finding_that_has_words_is_made_somewhere():
    """And the other way round; the code names them as literals."""
    files = (PROJECT / f"lora_core/inspect/{name}.py" for name in ("header_findings", "weight_findings", "header"))
    sources = "".join(file.read_text(encoding="utf-8") for file in files)
    keys = {key.removeprefix("inspect.finding.") for key in catalogue("en") if key.startswith("inspect.finding.")}
    assert not {key for key in keys if f'"{key}"' not in sources}


def keys_of(report) -> set[str]:
    return {finding.key for finding in report.findings}
