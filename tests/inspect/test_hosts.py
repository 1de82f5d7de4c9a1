"""Which programs load what. diffusers is here to be asked; the others' rules are checked by example."""

import numpy as np
import pytest

from lora_core.inspect.hosts import HOSTS, host_reports
from lora_core.inspect.layers import group
from lora_core.io.kinds import Family
from lora_core.io.tensors import TensorInfo
from tests.merge import makers


def loaded(state, family: Family) -> dict[str, tuple[int, int]]:
    infos = {key: TensorInfo("F16", np.shape(values)) for key, values in state.items()}
    return {report.host: (report.loaded, report.total) for report in host_reports(group(infos, family))}


def state_of(family="sd1", algorithm="lora", style="kohya"):
    small = {
        name: shape for name, shape in makers.SMALL[family].items() if np.prod(shape) < 4_000_000 or family == "flux"
    }
    return makers.lora_state(small, algorithm, family=family, style=style)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_plain_kohya_file_loads_everywhere(family):
    for host, (own, total) in loaded(state_of(family), family).items():
        assert own == total > 0, host


@pytest.mark.parametrize(
    ("family", "algorithm", "style", "everything"),
    [
        ("flux", "lora", "kohya", {"Forge", "ComfyUI", "diffusers"}),
        ("flux", "lora", "diffusers", {"Forge", "ComfyUI", "diffusers"}),
        ("sd1", "loha", "kohya", {"AUTOMATIC1111", "Forge", "ComfyUI"}),
        ("sd1", "lokr", "kohya", {"AUTOMATIC1111", "Forge", "ComfyUI"}),
        ("sd1", "dora lora", "kohya", {"AUTOMATIC1111", "Forge", "ComfyUI"}),
        ("sd1", "tucker", "kohya", {"AUTOMATIC1111", "Forge", "ComfyUI"}),
        ("sd1", "ia3", "kohya", {"AUTOMATIC1111"}),
        ("sd1", "lora", "diffusers", {"diffusers"}),
        ("sdxl", "lora", "diffusers", {"diffusers"}),
        ("sd1", "lora", "peft", set()),
    ],
)
def test_kinds_of_files_load_where_they_should(family, algorithm, style, everything):
    found = loaded(state_of(family, algorithm, style), family)
    assert {host for host, (own, total) in found.items() if own == total} == everything


def test_the_attention_of_2023_loads_in_comfyui_and_that_of_peft_does_not():
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
    old = {f"{stem}.attn1.processor.to_q_lora.{side}.weight": np.zeros((4, 320)) for side in ("down", "up")}
    new = {f"{stem}.attn1.to_q.lora_{side}.weight": np.zeros((4, 320)) for side in "AB"}
    outside = {f"{stem}.ff.net.2.lora_{side}.weight": np.zeros((4, 320)) for side in "AB"}
    counts = [loaded(state, "sd1")["ComfyUI"][0] for state in (old, new, outside)]
    assert counts == [1, 0, 1]


def test_refused_layers_are_named():
    state = state_of("sd1") | {"lora_unet_nowhere.lora_down.weight": np.zeros((4, 4))}
    infos = {key: TensorInfo("F16", np.shape(values)) for key, values in state.items()}
    for report in host_reports(group(infos, "sd1")):
        assert "lora_unet_nowhere" in report.refused
        assert report.message("ja") != report.message("en")


# ---- diffusers as the oracle -----------------------------------------------------------------------------------------

FILES = {
    "plain": ("sd1", "lora", {}),
    "SDXL": ("sdxl", "lora", {}),
    "LoHa": ("sd1", "loha", {}),
    "LoKr": ("sd1", "lokr", {}),
    "Tucker": ("sd1", "tucker", {}),
    "full": ("sd1", "full", {}),
    "an alpha alone": ("sd1", "lora", {"lora_unet_mid_block_attentions_0_proj_in.alpha": np.ones(())}),
    "junk": ("sd1", "lora", {"junk": np.zeros(3)}),
    "FLUX": ("flux", "lora", {}),
    "FLUX LoKr": ("flux", "lokr", {}),
}


@pytest.mark.parametrize(("family", "algorithm", "extra"), FILES.values(), ids=FILES)
def test_diffusers_takes_what_we_say_it_takes(family, algorithm, extra):
    torch = pytest.importorskip("torch")
    pipelines = pytest.importorskip("diffusers.loaders.lora_pipeline")
    state = state_of(family, algorithm) | extra
    mixins = {
        "sd1": "StableDiffusionLoraLoaderMixin",
        "sdxl": "StableDiffusionXLLoraLoaderMixin",
        "flux": "FluxLoraLoaderMixin",
    }
    mixin = getattr(pipelines, mixins[family])
    tensors = {key: torch.from_numpy(np.array(values, np.float32)) for key, values in state.items()}
    try:
        result = mixin.lora_state_dict(tensors, **({"unet_config": Unet} if family == "sdxl" else {}))
        names = result[0] if isinstance(result, tuple) else result
        taken = any(key.startswith(("unet.", "transformer.")) for key in names)
    except (ValueError, NotImplementedError, AttributeError, KeyError):
        taken = False
    own, total = loaded(state, family)["diffusers"]
    assert (own > 0) == taken
    if taken:
        assert own == total - ("an alpha alone" in extra)


class Unet:
    """What diffusers asks of SDXL's configuration."""

    layers_per_block = 2


def test_every_host_is_named_once():
    assert len({host.name for host in HOSTS}) == len(HOSTS)
