"""Everything a run needs, built from its settings, and the arithmetic of one step."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lora_core.adapters import AdapterNetwork
from lora_core.data.dataset import Batch, TrainingData
from lora_core.errors import Problem
from lora_core.families import FAMILIES
from lora_core.families.base import DENOISER, Components, Conditioning, ModelFamily
from lora_core.families.encoded import EncodedTexts
from lora_core.io.safetensors import read_tensors
from lora_core.noise import NoiseProcess
from lora_core.plan import Plan
from lora_core.selection import select
from lora_core.settings import RunSettings, TrainSettings
from lora_core.train.distributed import Team
from lora_core.train.ema import Ema
from lora_core.train.files import Retention
from lora_core.train.groups import split_groups
from lora_core.train.loss import training_loss
from lora_core.train.loss_weights import prediction_of
from lora_core.train.noise import draw_noise, draw_timesteps, perturbed
from lora_core.train.optimizer_table import WARMS_UP_ITSELF
from lora_core.train.optimizers import create_optimizer
from lora_core.train.pair import PairLatents, facing, pair_loss
from lora_core.train.preservation import with_class_words
from lora_core.train.randomness import derive, generator, seed_dropout
from lora_core.train.rounding import in_float32
from lora_core.train.schedules import Factor, factor, set_rates, text_encoders_stop_at, warmup_steps
from lora_core.train.stopping import StoppedTexts, freeze_text_encoders
from lora_core.train.validation import Validation
from lora_core.transfer import to_device


@dataclass(frozen=True)
class DataFacts:
    """What is written down about the dataset, and what is said about it before the first step."""

    fingerprint: str
    metadata: dict[str, str]
    captions: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass
class Session:
    """One run in memory. ``first_step`` is above 0 when it was resumed."""

    settings: RunSettings
    family: ModelFamily
    components: Components
    network: AdapterNetwork
    feed: Callable[[int, int], Batch]
    """(epoch from 1, number from 0) -> batch."""
    data_facts: DataFacts
    plan: Plan
    noise: NoiseProcess
    accelerator: Accelerator
    optimizer: Any
    """The optimizer as accelerate wraps it."""
    rate: Factor
    precision: str
    seed: int
    retention: Retention
    team: Team = field(default_factory=Team)
    """The processes that train together."""
    first_step: int = 0
    started_at: float = 0.0
    texts: EncodedTexts | None = None
    """Encoded captions and sample prompts, while no text encoder is trained."""
    stopped_texts: StoppedTexts | None = None
    """Encoded captions from the step on at which the text encoders stopped learning."""
    ema: Ema | None = None
    validation: Validation | None = None
    """What over-fitting is measured with."""
    pair: PairLatents | None = None
    """The two pictures of a copier LoRA, where it is made of their difference."""

    @property
    def device(self) -> torch.device:
        return self.components.device

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 1, that step ``step`` (counted from 1) belongs to; 0 before the first step."""
        return -(-step // self.plan.steps_per_epoch)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Feed:
    """Batches by epoch and number, the next ones being prepared while one is trained on.

    A batch is a pure function of its place, so reading ahead changes nothing but the waiting.
    """

    def __init__(self, data: TrainingData, seed: int):
        self.data = data
        self.seed = derive(seed, "data")
        self._stream: Iterator[Batch] = iter(())
        self._next = (0, 0)

    def __call__(self, epoch: int, index: int) -> Batch:
        if self._next != (epoch, index):
            self._stream = self.data.stream(epoch, index, self.seed)
        self._next = (epoch, index + 1)
        return next(self._stream)


ADAPTER_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def trained_text_parts(settings: RunSettings, family: ModelFamily) -> tuple[str, ...]:
    """The text encoders that get adapters."""
    return family.trainable_text_parts if settings.train.train_text_encoder else ()


def build_network(settings: RunSettings, family: ModelFamily, components: Components, seed: int) -> AdapterNetwork:
    """The adapters of the settings, attached to the model, in training mode."""
    text_parts, convolutions = trained_text_parts(settings, family), settings.network.convolutions
    targets = family.adapter_targets(components, text_parts=text_parts, convolutions=convolutions)
    choices = select([target.name for target in targets], settings.network, settings.model.family)
    own_seed, weights = derive(seed, "adapter"), settings.network.network_weights
    if weights is None:
        network = AdapterNetwork.create(targets, settings.network, own_seed, choices)
    else:
        network = AdapterNetwork.continued(targets, settings.network, own_seed, read_tensors(weights), choices)
    network.to(components.device, ADAPTER_DTYPES[settings.train.adapter_precision])
    network.attach()
    network.train()
    return network


def parameter_groups(settings: RunSettings, network: AdapterNetwork) -> list[dict[str, Any]]:
    """One group per trained part, with its own learning rate."""
    rates = {part: part_rate(settings.train, part) for part in sorted({adapter.part for adapter in network})}
    return [
        {"params": list(network.parameters_of(part)), "lr": rate, "base_lr": rate, "name": part}
        for part, rate in rates.items()
    ]


def part_rate(train: TrainSettings, part: str) -> float:
    """Its own learning rate, for a further text encoder else the first one's, else the general one."""
    first = train.unet_lr if part == DENOISER else train.text_encoder_lr
    return getattr(train, f"{part}_lr", None) or first or train.learning_rate


def build_optimizer(settings: RunSettings, network: AdapterNetwork, accelerator: Accelerator, plan: Plan) -> Any:
    """The optimizer, wrapped for the loss scaler and several processes."""
    warm = warmup_steps(settings.schedule, plan.total_steps)
    groups = split_groups(parameter_groups(settings, network), network, settings.network)
    optimizer = create_optimizer(settings.optimizer, groups, warmup_steps=warm)
    return accelerator.prepare_optimizer(optimizer, device_placement=False)


def rate_factor(settings: RunSettings, plan: Plan) -> Factor:
    """The schedule. Where schedule-free warms up by itself it is flat."""
    if settings.optimizer.name in WARMS_UP_ITSELF:
        return lambda _: 1.0
    return factor(settings.schedule, plan.total_steps)


def stored_compactly(family: ModelFamily) -> set[str]:
    """The networks that ``base_precision`` is about: the denoiser, and text encoders that nobody trains (T5)."""
    return {DENOISER, *family.text_parts} - set(family.trainable_text_parts)


def prepare_model(settings: RunSettings, family: ModelFamily, components: Components) -> None:
    """Memory format and gradient checkpointing of the frozen model."""
    components.denoiser.to(memory_format=torch.channels_last)
    if settings.train.gradient_checkpointing:
        # Checkpointing only happens in training mode; these models have no dropout, so nothing else changes.
        components.denoiser.train()
        components.denoiser.enable_gradient_checkpointing()
        for part in trained_text_parts(settings, family):
            components.part(part).train()
            components.part(part).gradient_checkpointing_enable({"use_reentrant": False})


def hash_in_background(components: Components) -> Thread:
    """Hash the base model while training runs: several gigabytes would delay the first step."""
    thread = Thread(target=lambda: (components.source.sha256, components.source.vae_sha256), daemon=True)
    thread.start()
    return thread


# ---- One step ----------------------------------------------------------------------------------------------------


def train_step(session: Session, step: int) -> Tensor:
    """Do optimizer step ``step`` (0-based) and return its mean loss, still on the device."""
    set_rates(session.optimizer, session.rate, step)
    stop_text_encoders(session, step)
    epoch, batches = microbatches(session.plan, step)
    total = torch.zeros((), device=session.device)
    for index in batches:
        seed_dropout(session.seed, epoch, index, *session.team.dropout_path())
        batch = session.feed(epoch, index)
        with facing(session.pair, session.network, epoch + index):
            loss = batch_loss(session, batch, generator(session.seed, "noise", epoch, index))
            loss = loss * session.team.share(len(batch)).weight
            session.accelerator.backward(loss / len(batches))
        total += loss.detach() / len(batches)
    total = session.team.sum_gradients(session.parameters(), total)
    if session.settings.train.max_grad_norm is not None:
        session.accelerator.clip_grad_norm_(session.parameters(), session.settings.train.max_grad_norm)
    with in_float32(session.parameters(), derive(session.seed, "rounding", step)):
        session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    # DoRA has no such setting: its lengths are trained.
    if (limit := getattr(session.settings.network, "scale_weight_norms", None)) is not None:
        session.network.scale_weight_norms(limit)
    if session.ema is not None:
        session.ema.update(step + 1)
    return total


def stop_text_encoders(session: Session, step: int) -> None:
    """Freeze the text encoders once the step is there that the settings say; resuming later finds the same."""
    end = text_encoders_stop_at(session.settings.train, session.plan.total_steps)
    if end is None or step < end or session.texts is not None or session.stopped_texts is not None:
        return
    freeze_text_encoders(session.optimizer)
    session.stopped_texts = StoppedTexts(session.family, session.components, session.settings.model, session.network)


def microbatches(plan: Plan, step: int) -> tuple[int, range]:
    """(epoch from 1, numbers from 0 of the batches in it) that make up optimizer step ``step``, counted from 0.

    The last step of an epoch may have fewer: gradients are never carried into the next epoch.
    """
    epoch, position = divmod(step, plan.steps_per_epoch)
    first = position * plan.accumulation
    return epoch + 1, range(first, min(first + plan.accumulation, plan.batches_per_epoch))


def batch_loss(session: Session, batch: Batch, random: torch.Generator) -> Tensor:
    """Noise a batch, predict, compare. Every draw comes from ``random``, in a fixed order."""
    if session.pair is not None:
        return pair_loss(session, batch, random, encode_captions)
    settings, device = session.settings, session.device
    x0 = clean_latents(session, batch, random)
    t = draw_timesteps(session.noise, x0, random, settings.noise)
    epsilon = draw_noise(x0, random, settings.noise, shaped=prediction_of(session.noise) is not None)
    noisy = session.noise.add_noise(x0, perturbed(epsilon, random, settings.noise), t).to(session.components.dtype)
    batch, x0, t, epsilon, noisy = session.team.own(batch, x0, t, epsilon, noisy)  # all draws are made
    frames = batch.frames_B6 if batch.frames_B6 is None else to_device(batch.frames_B6, device)

    def answer(captions: Sequence[str]) -> Tensor:
        return session.family.predict(session.components, noisy, t, encode_captions(session, captions), frames)

    loss_of = partial(
        training_loss,
        loss=settings.loss,
        sample_weights_B=to_device(batch.loss_weights_B, device),
        timesteps_B=t,
        noise=session.noise,
    )
    masks = None if batch.masks_B1HW is None else to_device(batch.masks_B1HW, device)
    loss = loss_of(answer(batch.captions), session.noise.target(x0, epsilon, t), masks_B1HW=masks)
    if settings.loss.prior_preservation is not None:
        pair = with_class_words(session.network, answer, settings.loss.prior_words, len(x0))
        loss = loss + settings.loss.prior_preservation * loss_of(*pair)
    return loss


def clean_latents(session: Session, batch: Batch, random: torch.Generator) -> Tensor:
    """A draw from the VAE's posterior of the batch, scaled; (B, C, H, W) float32 on the device."""
    if batch.pixels_BCHW is not None:
        with torch.no_grad():
            own = session.family.encode_images(session.components, to_device(batch.pixels_BCHW, session.device))
        mean, std = (session.team.whole(values, len(batch)) for values in own)
    else:
        mean, std = to_device(batch.mean_BCHW, session.device), to_device(batch.std_BCHW, session.device)
    draw = to_device(torch.randn(mean.shape, generator=random), session.device)
    return session.family.scale_latents(session.components, mean + std * draw)


def encode_captions(session: Session, captions: Sequence[str]) -> Conditioning:
    """What the denoiser is told; computed once per caption when no text encoder is trained (any more)."""
    weighted = session.settings.dataset.weighted_captions
    if (texts := session.texts or session.stopped_texts) is not None:
        return texts(captions, weighted=weighted)
    return session.family.encode_prompts(session.components, captions, session.settings.model, weighted=weighted)


def find_family(settings: RunSettings) -> ModelFamily:
    return FAMILIES[settings.model.family]


def cut_captions(session: Session, captions: Iterable[str]) -> list[tuple[str, int]]:
    """Captions too long for the settings, with the number of tokens that are left out."""
    model = session.settings.model
    limit = getattr(model, model.length_field)
    cut = ((c, session.family.tokens_cut(session.components, c, max_token_length=limit)) for c in sorted(set(captions)))
    return [(caption, tokens) for caption, tokens in cut if tokens]
