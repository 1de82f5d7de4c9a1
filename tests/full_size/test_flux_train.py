"""A model of FLUX.1's real widths cut to two blocks: it loads, trains three steps, saves, and diffusers draws with it.

The transformer has one double and one single block of 3072, T5 two layers of 4096, CLIP-L and the VAE are whole; all in
bf16 under their published names. 1.8 GB of files, 6 GB of memory.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lora_core.adapters import AdapterNetwork
from lora_core.events import StepDone
from lora_core.families import FAMILIES
from lora_core.families.flux_keys import bundled_config
from lora_core.settings import FluxModel, RunSettings
from lora_core.train.loop import train
from tests.merge.model_facts import checkpoint
from tests.models_flux import FluxFiles, bfl_vae_state, clip_state, save, t5_state, t5_tokenizer_json

pytestmark = pytest.mark.full_size
SIZE, LENGTH = 256, 64


def cut_transformer() -> dict[str, torch.Tensor]:
    """Random weights for the published keys of the first double and single block and what is around them."""
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in checkpoint("flux").items():
        key = key.removeprefix("model.diffusion_model.")
        if not re.match(r"(double|single)_blocks\.(?!0\.)", key):
            spread = 0.0 if key.endswith("bias") else shape[-1] ** -0.5
            state[key] = (
                torch.ones(shape) if key.endswith("scale") else torch.randn(shape, generator=generator) * spread
            )
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> FluxFiles:
    folder = tmp_path_factory.mktemp("cut")
    files = FluxFiles(*(folder / f"{name}.safetensors" for name in ("flux1", "ae", "clip_l", "t5xxl")))
    torch.manual_seed(0)
    save(cut_transformer(), files.base, torch.bfloat16)
    save(bfl_vae_state(AutoencoderKL.from_config(bundled_config("vae"))), files.vae, torch.bfloat16)
    clip = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    save(clip_state(CLIPTextModel(clip)), files.clip_l, torch.bfloat16)
    t5 = T5EncoderModel(T5Config(**bundled_config("text_encoder_2") | {"num_layers": 2}))
    save(t5_state(t5), files.t5, torch.bfloat16)
    t5_tokenizer_json(folder / "tokenizer.json")
    return files


@pytest.fixture(scope="module")
def lora(files, tmp_path_factory):
    """Trained for three steps, with how long they took and how much memory the process had then."""
    folder = tmp_path_factory.mktemp("run")
    images = folder / "images" / "3_usu bear"
    images.mkdir(parents=True)
    Image.effect_noise((SIZE, SIZE), 60).convert("RGB").save(images / "0.png")
    settings = RunSettings(
        model={"family": "flux", "t5_max_token_length": LENGTH, **files.settings},
        dataset={"train_dir": images.parent, "resolution": str(SIZE)},
        network={"rank": 4, "alpha": 4},
        optimizer={"name": "AdamW"},
        train={"epochs": 1, "mixed_precision": "bf16", "seed": 0, "learning_rate": 1e-2, "train_text_encoder": False},
        save={"output_dir": folder / "out", "output_name": "cut", "save_precision": "float"},
    )
    begun, times = time.perf_counter(), []
    with peak_memory() as peak:
        for event in train(settings, ()):
            if isinstance(event, StepDone):
                times.append(time.perf_counter() - begun)
    print(f"\nfirst step after {times[0]:.1f} s, then {(times[-1] - times[0]) / 2:.1f} s a step, peak {peak[0]:.1f} GB")
    assert len(times) == 3
    return settings.save.output_dir / "cut.safetensors"


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The most gigabytes that the process has meanwhile, looked up ten times a second."""
    peak, done, process = [0.0], threading.Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], process.memory_info().rss / 2**30)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def test_the_lora_has_real_shapes(lora):
    state = load_file(lora)
    assert state["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"].shape == (9216, 4)
    assert state["lora_unet_single_blocks_0_linear1.lora_up.weight"].shape == (21504, 4)
    assert state["lora_unet_single_blocks_0_linear2.lora_down.weight"].shape == (4, 15360)
    assert len(state) == 3 * 13
    assert all(tensor.abs().max() > 0 for tensor in state.values())


def test_diffusers_answers_as_we_do(files, lora):
    """At the real widths, where its converter takes linear1 apart. In float32, so that nothing is rounded."""
    family, cpu = FAMILIES["flux"], torch.device("cpu")
    components = family.load(FluxModel(t5_max_token_length=LENGTH, **files.settings), dtype=torch.float32, device=cpu)
    state = load_file(lora)
    latents, t = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    with torch.no_grad():
        told = family.encode_prompts(components, ["a bear"], FluxModel(t5_max_token_length=LENGTH))
        components.free("text_encoder_2")
        bare = family.predict(components, latents, t, told)
        network = AdapterNetwork.from_kohya(family.adapter_targets(components, text_parts=()), state).eval().attach()
        ours = family.predict(components, latents, t, told)
    network.detach()
    components.free("unet")
    assert (ours - bare).abs().max() > 1e-3

    transformer = FluxTransformer2DModel.from_config(bundled_config("transformer") | CUT)
    transformer.load_state_dict(apart(load_file(files.base)))
    pipeline = FluxPipeline(None, None, None, None, None, None, transformer.eval())
    pipeline.load_lora_weights(state)
    with torch.no_grad():
        expected = pipeline.transformer(
            hidden_states=FluxPipeline._pack_latents(latents, *latents.shape),
            timestep=t / 1000,
            guidance=torch.ones(1),
            pooled_projections=told["pooled"],
            encoder_hidden_states=told.hidden,
            txt_ids=torch.zeros(LENGTH, 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, 4, 4, cpu, torch.float32),
        ).sample
    expected = FluxPipeline._unpack_latents(expected, 64, 64, 8)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


CUT = {"num_layers": 1, "num_single_layers": 1}


def apart(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers' names and layers, by its own converter of single files."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    return convert_flux_transformer_checkpoint_to_diffusers({key: tensor.float() for key, tensor in state.items()})
