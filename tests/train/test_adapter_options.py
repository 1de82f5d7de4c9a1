"""Options of the adapters in whole runs: stopped and resumed they end as an unbroken run; files are what they say."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_core.adapters import AdapterNetwork
from lora_core.errors import UserError
from lora_core.events import RunFinished, RunStarted, StepDone, Stop
from lora_core.families import FAMILIES
from lora_core.settings import RunSettings
from lora_core.train.base_weights import merge_base_weights
from lora_core.train.state import check_fits, read_position
from tests.train.test_loop import At, changed, events_of, final, images, model, only, settings, weights  # noqa: F401

WAYS = {
    "oft": {"algo": "oft", "rank": 4, "conv_rank": 4, "constraint": 0.01},
    "pissa": {"algo": "lora", "rank": 2, "alpha": 1.0, "init": "pissa", "network_dropout": 0.1},
    "loha, decomposed": {"algo": "loha", "rank": 2, "alpha": 1.0, "weight_decompose": True},
    "lokr, decomposed": {"algo": "lokr", "rank": 2, "alpha": 1.0, "factor": 2, "weight_decompose": True},
    "blocks and LoRA+": {
        "algo": "locon",
        "rank": 2,
        "alpha": 1.0,
        "conv_rank": 1,
        "loraplus_ratio": 4.0,
        "block_lrs": "IN=0.5, BASE=2",
        "block_ranks": "MID=3, *attn2*=1",
        "exclude": "ff_net_2",
    },
}


def of(settings, way):  # noqa: F811
    network = RunSettings.model_validate({"network": WAYS[way]}).network
    return settings.model_copy(update={"network": network})


@pytest.mark.parametrize("way", WAYS)
def test_stopped_and_resumed_it_ends_with_the_file_of_an_unbroken_run(settings, tmp_path, way):  # noqa: F811
    settings = of(settings, way)
    whole = events_of(settings)
    assert isinstance(whole[-1], RunFinished)
    assert only(whole, StepDone)[-1].loss < 10
    parts = changed(settings, save={"output_dir": tmp_path / "parts"})
    stopped = events_of(parts, At(step4=Stop()))
    state = max((tmp_path / "parts").glob("*-state"), key=lambda path: path.stat().st_mtime)
    assert only(stopped, RunStarted)[0].total_steps != only(stopped, StepDone)[-1].step
    resumed = changed(parts, save={"resume": state})
    events_of(resumed)
    assert weights(final(resumed)) == weights(final(settings))


def test_a_run_says_the_rates_that_count(settings):  # noqa: F811
    steps = only(events_of(of(settings, "blocks and LoRA+")), StepDone)
    assert steps[0].learning_rate.keys() == {"text_encoder", "text_encoder up", "unet", "unet up"}
    first = steps[0].learning_rate
    assert first["unet up"] == pytest.approx(4 * first["unet"])
    assert first["text_encoder"] == pytest.approx(2 * first["unet"])


def test_the_file_of_pissa_is_a_lora_of_twice_the_rank(settings):  # noqa: F811
    settings = of(settings, "pissa")
    events_of(settings)
    state = load_file(final(settings))
    assert {t.shape[0] for key, t in state.items() if key.endswith("lora_down.weight")} == {4}
    assert {float(t) for key, t in state.items() if key.endswith("alpha")} == {2.0}


def test_another_choice_of_layers_can_not_be_resumed(settings, tmp_path):  # noqa: F811
    settings = changed(settings, save={"save_state": True})
    events_of(settings, At(step4=Stop()))
    state = next(settings.save.output_dir.glob("*-state"))
    other = changed(settings, network={"exclude": "attn1"})
    with pytest.raises(UserError, match=r"network\.exclude"):
        check_fits(read_position(state), other, read_position(state).dataset_fingerprint, state)


# ---- LoRAs merged first ----------------------------------------------------------------------------------------------


def loaded(settings):  # noqa: F811
    family = FAMILIES["sd1"]
    return family, family.load(settings.model, dtype=torch.float32, device=torch.device("cpu"))


def test_loras_are_merged_into_the_base_first(settings, tmp_path):  # noqa: F811
    events_of(settings)
    family, components = loaded(settings)
    targets = family.adapter_targets(components, text_parts=family.trainable_text_parts, convolutions=False)
    network = AdapterNetwork.from_kohya(targets, load_file(final(settings)))
    expected = {a.name: a.layer.weight + 0.5 * a.delta_weight() for a in network}
    merge_base_weights(f"{final(settings)}:0.5", family, components)
    for adapter in network:
        torch.testing.assert_close(adapter.layer.weight.data, expected[adapter.name], rtol=1e-6, atol=1e-7)
    encoder = components.text_encoder
    components.free("text_encoder")
    assert components.text_encoder is encoder  # read again, it would be the base's


def test_a_run_on_merged_loras_is_another_one_and_ends_well(settings, tmp_path):  # noqa: F811
    events_of(settings)
    base = tmp_path / "base.safetensors"
    save_file({key: t * (1 if key.endswith("alpha") else 3) for key, t in load_file(final(settings)).items()}, base)
    other = changed(settings, network={"base_weights": str(base)}, save={"output_dir": tmp_path / "two"})
    losses = [[s.loss for s in only(events_of(one), StepDone)] for one in (settings, other)]
    assert losses[0][0] != losses[1][0]
    assert weights(final(other)) != weights(final(settings))


def test_a_lora_of_another_model_is_named(settings, tmp_path):  # noqa: F811
    save_file({"lora_unet_other.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x\.safetensors can't be merged"):
        merge_base_weights(str(tmp_path / "x.safetensors"), *loaded(settings))
