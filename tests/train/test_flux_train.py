"""Training on a tiny FLUX.1: one step against plain diffusers, over-fitting, memory in phases, resume, the file."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch.func import functional_call
from transformers import CLIPTextModel

from lora_core.adapters import AdapterNetwork
from lora_core.events import CheckpointSaved, StageChanged, Stop
from lora_core.families.components import Components
from lora_core.flow import flux_shift
from lora_core.settings import RunSettings
from lora_core.settings.tools import RateRangeSettings
from lora_core.train import rate_range
from lora_core.train.loop import prepare
from lora_core.train.randomness import generator
from lora_core.train.session import Session, batch_loss, train_step
from tests.models_flux import T5_LENGTH, _bfl_key, _same_layer, tiny_flux_files, tiny_flux_folder
from tests.train.test_loop import At, changed, events_of, final, only, weights


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny_flux_folder(tmp_path_factory.mktemp("model") / "flux")


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    (root / "1_usu bear").mkdir()
    for i in range(3):
        Image.radial_gradient("L").resize((64, 64)).convert("RGB").rotate(30 * i).save(root / f"1_usu bear/{i}.png")
    (root / "1_usu bear/0.txt").write_text("a red bear in the snow", encoding="utf-8")
    return root


@pytest.fixture
def settings(model, images, tmp_path) -> RunSettings:
    return RunSettings(
        model={"family": "flux", "base": str(model), "t5_max_token_length": T5_LENGTH},
        dataset={"train_dir": images, "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 4, "alpha": 2},
        optimizer={"name": "AdamW"},
        train={"epochs": 2, "train_batch_size": 2, "learning_rate": 1e-3, "mixed_precision": "no", "seed": 0},
        save={"output_dir": tmp_path / "out", "output_name": "usu", "save_precision": "float"},
    )


def session_of(settings: RunSettings) -> Session:
    steps = prepare(settings)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def stir(network: AdapterNetwork) -> None:
    """As after some training: both factors have gradients."""
    draws = torch.Generator().manual_seed(1)
    for adapter in network:
        adapter.up.data.normal_(0, 0.2, generator=draws)


def rows_of(transformer: FluxTransformer2DModel) -> dict[str, tuple[str, int]]:
    """Weight in diffusers' network -> the layer of a LoRA it belongs to, and its first row in it."""
    found: dict[str, tuple[str, int]] = {}
    shapes = {key: t.shape for key, t in transformer.state_dict().items() if key.endswith(".weight") and t.ndim == 2}
    for key in shapes:
        if ".to_q." in key or ".add_q_proj." in key:
            row = 0
            for part in _same_layer(key):
                found[part] = (_lora(key), row)
                row += shapes[part][0]
    blocks = [key for key in shapes if "transformer_blocks." in key and key not in found]
    return found | {key: (_lora(key), 0) for key in blocks}


def _lora(key: str) -> str:
    return "lora_unet_" + _bfl_key(key).removesuffix(".weight").replace(".", "_")


class Reference:
    """The same step by plain diffusers, its weights made of the base's and the LoRA's."""

    def __init__(self, folder: Path, network: AdapterNetwork):
        self.pipeline = FluxPipeline.from_pretrained(folder, local_files_only=True)
        self.factors = {
            a.name: (a.down.detach().clone().requires_grad_(), a.up.detach().clone().requires_grad_()) for a in network
        }

    def delta(self, name: str) -> torch.Tensor:
        down, up = self.factors[name]
        return 2 / 4 * up @ down

    def transformer_weights(self) -> dict[str, torch.Tensor]:
        transformer: FluxTransformer2DModel = self.pipeline.transformer
        state, rows = transformer.state_dict(), rows_of(transformer)
        return {key: state[key] + self.delta(name)[row : row + len(state[key])] for key, (name, row) in rows.items()}

    def clip_weights(self) -> dict[str, torch.Tensor]:
        encoder: CLIPTextModel = self.pipeline.text_encoder
        prefix = "lora_te1_text_model_"
        return {
            key: weight + self.delta(name)
            for key, weight in encoder.state_dict().items()
            if (name := prefix + key.removeprefix("text_model.").removesuffix(".weight").replace(".", "_"))
            in self.factors
        }

    def loss(self, pixels: torch.Tensor, captions: list[str], random: torch.Generator) -> torch.Tensor:
        pipe, vae = self.pipeline, self.pipeline.vae
        assert isinstance(vae, AutoencoderKL)
        with torch.no_grad():
            posterior = vae.encode(pixels).latent_dist
            draw = torch.randn(posterior.mean.shape, generator=random)
            x0 = (posterior.mean + posterior.std * draw - vae.config.shift_factor) * vae.config.scaling_factor
            t5, _, ids = pipe.encode_prompt(captions, max_sequence_length=T5_LENGTH)
        b, c, h, w = x0.shape
        normal = torch.randn(b, generator=random).double()
        s = flux_shift(h * w // 4)
        sigma = torch.sigmoid(normal)
        sigma = (s * sigma / (1 + (s - 1) * sigma)).float()
        noise = torch.randn(x0.shape, generator=random)
        noisy = (1 - sigma).view(-1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1) * noise
        tokens = pipe.tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        clip = functional_call(pipe.text_encoder, self.clip_weights(), (tokens.input_ids,))
        answer = functional_call(
            pipe.transformer,
            self.transformer_weights(),
            kwargs={
                "hidden_states": pipe._pack_latents(noisy, b, c, h, w),
                "timestep": sigma,
                "guidance": torch.ones(b),
                "pooled_projections": clip.pooler_output,
                "encoder_hidden_states": t5,
                "txt_ids": ids,
                "img_ids": pipe._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", torch.float32),
            },
        ).sample
        return (pipe._unpack_latents(answer, h * 8, w * 8, 8) - (noise - x0)).square().mean()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_is_that_of_plain_diffusers(settings, model, checkpointing):
    """Loss, and the gradient of every factor of every layer, fused ones and CLIP's among them."""
    settings = changed(settings, train={"gradient_checkpointing": checkpointing}, dataset={"cache_latents": "off"})
    session = session_of(settings)
    stir(session.network)
    batch = session.feed(1, 0)
    reference = Reference(model, session.network)
    expected = reference.loss(batch.pixels_BCHW, batch.captions, generator(0, "noise", 1, 0))
    expected.backward()
    loss = batch_loss(session, batch, generator(0, "noise", 1, 0))
    loss.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-5)
    assert {name.split("_")[1] for name in reference.factors} == {"unet", "te1"}
    for adapter in session.network:
        for ours, theirs in zip((adapter.down, adapter.up), reference.factors[adapter.name], strict=True):
            scale = float(theirs.grad.abs().max())
            assert scale > 0
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5 * scale, msg=adapter.name)


def test_one_picture_is_learned_by_heart(settings):
    """With one noise at one time: over all of them the direction stays partly unknown, whatever is learned."""
    settings = changed(settings, train={"train_batch_size": 1, "train_text_encoder": False}, network={"rank": 16})
    session = session_of(settings)
    batch, losses = session.feed(1, 0), []
    optimizer = torch.optim.AdamW(session.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(100):
        loss = batch_loss(session, batch, generator(0, "noise", 1, 0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0], losses[::20]


def test_the_largest_parts_are_never_in_memory_together(settings, monkeypatch):
    """T5 reads captions and sample prompts and goes before the transformer comes, also while CLIP is trained."""
    loads: list[tuple[str, set[str]]] = []
    part = Components.part

    def spy(self, name):
        if not self.is_loaded(name):
            loads.append((name, set(self.loaded)))
        return part(self, name)

    monkeypatch.setattr(Components, "part", spy)
    sample = {"prompts": "the bear --w 32 --h 32 --s 1 --n bad", "at_start": True}
    for trained in (False, True):
        loads.clear()
        events_of(changed(settings, train={"train_text_encoder": trained}, sample=sample, save={"overwrite": True}))
        names = [name for name, _ in loads]
        assert names.index("text_encoder_2") < names.index("unet")
        assert names.count("text_encoder_2") == names.count("unet") == 1, "read once"
        assert "text_encoder_2" not in dict(loads)["unet"]
        assert trained or "text_encoder" not in dict(loads)["unet"]


@pytest.mark.parametrize("trained", [True, False])
def test_stopped_and_resumed_it_ends_with_the_file_of_an_unbroken_run(settings, tmp_path, trained):
    settings = changed(settings, train={"train_text_encoder": trained}, network={"network_dropout": 0.1})
    whole = changed(settings, save={"output_dir": tmp_path / "whole"})
    events_of(whole)
    stopped = events_of(settings, At(step2=Stop(save=True)))
    events_of(changed(settings, save={"resume": only(stopped, CheckpointSaved)[-1].state}))
    assert weights(final(settings)) == weights(final(whole))


def test_separate_files_train_to_the_same_lora(settings, tmp_path):
    files = tiny_flux_files(tmp_path / "files")
    other = changed(settings, model=files.settings, save={"output_dir": tmp_path / "other"})
    events_of(settings)
    events_of(other)
    assert weights(final(settings)) == weights(final(other))


def test_the_file_has_the_names_and_the_words_that_others_know(settings):
    events = events_of(settings)
    assert any(isinstance(e, StageChanged) and e.stage == "caching_texts" for e in events)
    with safe_open(final(settings), "pt") as file:
        metadata = file.metadata()
    names = {name.split(".")[0] for name in load_file(final(settings))}
    assert {
        "lora_unet_double_blocks_1_img_attn_qkv",
        "lora_unet_double_blocks_0_txt_mod_lin",
        "lora_unet_single_blocks_1_linear1",
        "lora_unet_single_blocks_0_modulation_lin",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    } <= names
    assert len([name for name in names if name.startswith("lora_unet_")]) == 2 * 10 + 2 * 3
    assert metadata["ss_base_model_version"] == "flux1"
    assert metadata["modelspec.architecture"] == "flux-1-dev/lora"
    assert metadata["ss_network_module"] == "networks.lora_flux"
    assert "modelspec.prediction_type" not in metadata
    assert (metadata["ss_timestep_sampling"], metadata["ss_guidance_scale"]) == ("flux_shift", "1.0")


def test_the_saved_lora_gives_what_the_trained_one_gave(settings):
    session = session_of(settings)
    for step in range(2):
        train_step(session, step)
    batch = session.feed(1, 0)
    session.network.eval()
    trained = batch_loss(session, batch, generator(0, "test", 1, 0)).detach()
    state = session.network.state_dict_kohya()
    session.network.detach()
    targets = session.family.adapter_targets(session.components, text_parts=("text_encoder",))
    assert not torch.equal(batch_loss(session, batch, generator(0, "test", 1, 0)).detach(), trained)
    AdapterNetwork.from_kohya(targets, state).eval().attach()
    again = batch_loss(session, batch, generator(0, "test", 1, 0)).detach()
    torch.testing.assert_close(again, trained, rtol=0, atol=1e-6)


@pytest.mark.parametrize("algo", ["locon", "loha", "lokr", "dora"])
def test_every_algorithm_sits_on_the_joined_layers(settings, algo):
    network = RunSettings(network={"algo": algo, "rank": 2, "alpha": 1}).network
    session = session_of(settings.model_copy(update={"network": network}))
    batch = session.feed(1, 0)
    with torch.no_grad():
        before = batch_loss(session, batch, generator(0, "noise", 1, 0))
        session.network.detach()
        torch.testing.assert_close(batch_loss(session, batch, generator(0, "noise", 1, 0)), before, rtol=0, atol=1e-5)
        session.network.attach()
    losses = [float(train_step(session, step)) for step in range(2)]
    assert all(torch.isfinite(torch.tensor(losses)))
    joined = session.network.adapters["lora_unet_single_blocks_0_linear1"]
    assert joined.delta_weight().abs().max() > 0


def test_a_learning_rate_is_looked_for(settings, monkeypatch):
    """At a rate of nearly nothing the loss stays; a high one moves it."""
    monkeypatch.setattr(rate_range, "MEASURED", 2)
    wanted = RateRangeSettings(training=settings, lowest=1e-7, highest=1.0, steps=10)
    *_, found = rate_range.rate_range(wanted)
    moved = [abs(point.loss - found.start) for point in found.points]
    assert moved[0] < 1e-4 * found.start
    assert max(moved) > 100 * moved[0]
