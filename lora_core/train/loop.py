"""The training loop: a generator of events. Whoever cares consumes them (file, console, TensorBoard, tests)."""

import hashlib
import random
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from lora_core.data.checks import checked
from lora_core.data.content import content_hash
from lora_core.data.dataset import TrainingData, latent_cache
from lora_core.data.folders import Scan, scan
from lora_core.data.held_out import held_out_problems, measured, trained_part
from lora_core.data.mask_files import MaskFiles, mask_problems
from lora_core.data.masks import Masks
from lora_core.data.metadata import dataset_metadata
from lora_core.data.samples import Sample, build_samples, fingerprint
from lora_core.data.texts import TextsOnDisk, files_identity, text_folder
from lora_core.errors import ProblemsFound, UserError
from lora_core.events import (
    CheckpointSaved,
    Command,
    EpochDone,
    EventBase,
    RunFinished,
    RunStarted,
    StageChanged,
)
from lora_core.families.base import Components, ModelFamily
from lora_core.families.encoded import MOST_TEXTS, EncodedTexts
from lora_core.generate.draw import prompts_asked
from lora_core.generate.prompts import parse
from lora_core.noise import obeying
from lora_core.plan import Plan, plan_of_scan
from lora_core.settings import RunSettings
from lora_core.train import saving, summary, validation
from lora_core.train.base_weights import merge_base_weights
from lora_core.train.commands import Control
from lora_core.train.device import DTYPES, choose_device, choose_precision
from lora_core.train.distributed import Team, join
from lora_core.train.ema import Ema
from lora_core.train.files import Retention
from lora_core.train.pair import PairLatents, encode_pair
from lora_core.train.sampling import draw_samples, sample_is_due
from lora_core.train.session import (
    DataFacts,
    Feed,
    Session,
    build_network,
    build_optimizer,
    find_family,
    hash_in_background,
    prepare_model,
    rate_factor,
    stored_compactly,
    train_step,
    trained_text_parts,
)
from lora_core.train.shared_cache import filling
from lora_core.train.state import check_fits, load_state, read_position
from lora_core.train.steplog import StepLog


def train(settings: RunSettings, commands: Iterable[Command] = ()) -> Iterator[EventBase]:
    """Train one LoRA and yield what happens. ``commands`` is read between steps; it may grow while the run goes on.

    Raises UserError for what the person can put right. Files are only ever written complete.
    """
    session = yield from prepare(settings)
    control, log = Control(session.team.commands(commands)), StepLog(session)
    yield started(session)
    yield from summary.warnings(session)
    if settings.sample.at_start and session.first_step == 0:
        yield from draw_samples(session, step=0, epoch=0)
    yield from validation.at_start(session)

    yield StageChanged(stage="training", done=session.first_step, total=session.plan.total_steps)
    step = session.first_step
    try:
        while step < session.plan.total_steps and not control.stopped and not validation.is_ended(session):
            loss = train_step(session, step)
            step += 1
            epoch = session.epoch_of(step)
            yield from log.add(step, epoch, loss)
            yield from at_boundaries(session, log, step, epoch)
            yield from control.obey(session, log, step, epoch)
        yield from log.flush()
    except UserError:
        raise  # a loss that is not finite: what is in memory is not worth keeping
    except Exception:
        yield from saving.rescue(session, step)
        raise
    control.commands = commands  # the others are done, and hear no more
    yield from finish(session, control, step)


def prepare(settings: RunSettings) -> Iterator[EventBase]:
    """Load, cache and build everything; the session is the generator's return value."""
    yield StageChanged(stage="checking")
    started_at = time.time()
    position = read_position(settings.save.resume) if settings.save.resume else None
    seed = position.seed if position else settings.train.seed
    team, device = join(choose_device(settings.train))
    seed = team.same(random.SystemRandom().randrange(2**32) if seed is None else seed)
    precision = choose_precision(settings.train, device)
    found = team.once_a_machine(lambda: usable(scan(settings.dataset), settings))
    plan, pictures = plan_of_scan(found, settings), measured(found, settings)
    trained = trained_part(found, settings.validation)
    samples = build_samples(trained, settings)

    yield StageChanged(stage="loading_model")
    family = find_family(settings)
    components = family.load(settings.model, dtype=DTYPES[precision], device=device)
    components.store_as(settings.train.base_precision, stored_compactly(family))
    if team.leads:
        hash_in_background(components)
    components.schedule = obeying(components.schedule, settings.noise)
    masks = masks_of(settings, found, components)
    pair = pair_of(settings, family, components, samples)
    data = yield from training_data(settings, family, components, samples, plan, team, masks)
    watch = yield from validation.prepare_validation(settings, pictures, family, components, team, masks)
    merge_base_weights(settings.network.base_weights, family, components)
    feed = Feed(data, seed)
    asked = validation.texts_asked(settings, pictures)
    texts = yield from encoded_texts(settings, family, components, feed, plan, asked)
    yield StageChanged(stage="loading_model")
    prepare_model(settings, family, components)

    accelerator = Accelerator(mixed_precision="fp16" if precision == "fp16" else "no", cpu=device.type == "cpu")
    network = build_network(settings, family, components, seed)
    optimizer = build_optimizer(settings, network, accelerator, plan)
    facts = facts_of(trained, samples, settings, masks)
    if watch is not None:
        told = (*facts.warnings, *held_out_problems(settings, found))
        facts = replace(facts, metadata=facts.metadata | watch.metadata(), warnings=told)
    ema = Ema(network.named_parameters(), settings.train.ema_decay) if settings.train.ema_decay else None
    team.check_same_data(facts.fingerprint)
    if position is not None and settings.save.resume is not None:
        check_fits(position, settings, facts.fingerprint, settings.save.resume)
        load_state(settings.save.resume, network, optimizer, accelerator.scaler, ema)
    team.align(list(network.parameters()))
    return Session(
        settings=settings,
        family=family,
        components=components,
        network=network,
        feed=feed,
        data_facts=facts,
        plan=plan,
        noise=family.noise_process(components, settings).to(device),
        accelerator=accelerator,
        optimizer=optimizer,
        rate=rate_factor(settings, plan),
        precision=precision,
        seed=seed,
        retention=Retention(settings.save.keep_last_n),
        team=team,
        first_step=position.step if position else 0,
        texts=texts,
        ema=ema,
        validation=watch,
        pair=pair,
        started_at=started_at,
    )


def usable(found: Scan, settings: RunSettings) -> Scan:
    """The scan with the images that can be trained on, each read whole. Raises ProblemsFound if the run can't go on."""
    good = checked(found, settings.dataset, deep=True)
    if errors := [problem for problem in good.problems if problem.severity == "error"]:
        raise ProblemsFound(errors)
    return good


def masks_of(settings: RunSettings, found: Scan, components: Components) -> Masks | None:
    """The masks of the loss, if there are to be any. Raises ProblemsFound if they can't be used."""
    problems = list(mask_problems(settings, found))
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise ProblemsFound(errors)
    files = MaskFiles.of(settings, found)
    return None if files is None else Masks(files, components.vae_factor)


def pair_of(
    settings: RunSettings, family: ModelFamily, components: Components, samples: list[Sample]
) -> PairLatents | None:
    """The two pictures of a copier LoRA, while the VAE is there."""
    before, after = settings.dataset.pair_before, settings.dataset.pair_after
    if before is None or after is None:
        return None
    return encode_pair(family, components, before, after, samples[0].placement)


def facts_of(found: Scan, samples: list[Sample], settings: RunSettings, masks: Masks | None = None) -> DataFacts:
    known = fingerprint(samples)
    if masks is not None:
        known += masks.fingerprint([sample.image.path for sample in samples])
    if settings.dataset.pair_before is not None:
        known += content_hash(settings.dataset.pair_before)
    return DataFacts(
        fingerprint=known,
        metadata=dataset_metadata(
            found,
            samples,
            buckets_enabled=settings.dataset.enable_bucket,
            batch_size=settings.train.train_batch_size,
        ),
        captions=tuple({line for sample in samples for line in sample.caption.split("\n")}),
        warnings=(*found.problems, *mask_problems(settings, found)),
    )


def training_data(
    settings: RunSettings,
    family: ModelFamily,
    components: Components,
    samples: list[Sample],
    plan: Plan,
    team: Team,
    masks: Masks | None = None,
) -> Iterator[EventBase]:
    """The training data, with its latents encoded if they are to be cached; returned by the generator."""
    cache = latent_cache(
        settings.dataset,
        lambda pixels: family.encode_images(components, pixels.to(components.device)),
        vae_identity(components),
    )
    if cache is not None:
        for done, total in filling(team, cache, samples):
            yield StageChanged(stage="caching_latents", done=done, total=total)
        components.park("vae")  # its memory is wanted for training; sampling brings it back for a moment
    return TrainingData(
        samples,
        settings.images_per_batch,
        cache,
        masks,
        accumulation=plan.accumulation,
        total_steps=plan.total_steps,
        pixel_rows=team.rows,
    )


def encoded_texts(
    settings: RunSettings,
    family: ModelFamily,
    components: Components,
    feed: Feed,
    plan: Plan,
    more: Collection[str] = (),
) -> Iterator[EventBase]:
    """The captions and sample prompts of the run, encoded, if no text encoder is trained; None if one is.

    Where all captions that will come can be told beforehand, the text encoders make room for the denoiser; those that
    are never trained do so even while others are. ``more`` are texts that are asked about beside captions and samples.
    """
    trained = trained_text_parts(settings, family)
    if trained and set(family.text_parts) == set(trained):
        return None
    captions = feed.data.captions_shown(plan.epochs, feed.seed, MOST_TEXTS // 2)
    if settings.loss.prior_preservation is not None:
        more = {*more, settings.loss.prior_words}
    if trained:
        prompts = {prompt.text for prompt in parse(settings.sample.prompts)}.union(captions or (), more)
        for done, total in family.keep_frozen_texts(components, prompts, settings.model):
            yield StageChanged(stage="caching_texts", done=done, total=total)
        return None
    texts = EncodedTexts(family, components, settings.model, text_store(settings, family, components))
    if captions is not None:
        for done, total in texts.filling(captions.union(more), weighted=settings.dataset.weighted_captions):
            yield StageChanged(stage="caching_texts", done=done, total=total)
        for prompt in parse(settings.sample.prompts):
            prompts_asked(family, components, prompt, settings.model, texts)
        texts.release_encoders()
    return texts


def text_store(settings: RunSettings, family: ModelFamily, components: Components) -> TextsOnDisk | None:
    """Where encoded texts are kept for the next run, if they are to be."""
    if settings.train.cache_text_encoder_outputs != "disk":
        return None
    separate = {name: value for name, value in settings.model if isinstance(value, Path) and name != "vae"}
    options = {name: value for name, value in settings.model if not isinstance(value, Path) and name != "base"}
    files = files_identity([components.source.path, *(separate[name] for name in sorted(separate))])
    stored = str(components.dtype)
    if settings.train.base_precision != "full" and set(family.text_parts) & stored_compactly(family):
        stored += f" {settings.train.base_precision}"
    facts = options | {"files": files, "precision": stored, "separate": sorted(separate)}
    return TextsOnDisk(text_folder(settings.dataset.cache_dir, settings.dataset.train_dir), facts)


def vae_identity(components: Components) -> str:
    """SHA-256 of the VAE's weights: what is cached belongs to them, whatever file they came from."""
    digest = hashlib.sha256()
    for name, weight in components.vae.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def started(session: Session) -> RunStarted:
    settings, plan = session.settings, session.plan
    return RunStarted(
        name=settings.save.output_name,
        total_steps=plan.total_steps,
        epochs=plan.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        first_step=session.first_step,
        device=str(session.device),
        precision=session.precision,
        seed=session.seed,
        summary={"en": summary.lines(session, "en"), "ja": summary.lines(session, "ja")},
    )


def at_boundaries(session: Session, log: StepLog, step: int, epoch: int) -> Iterator[EventBase]:
    """What is due after ``step`` steps: the end of an epoch, a saved LoRA, samples."""
    ends_epoch = step % session.plan.steps_per_epoch == 0
    last = step == session.plan.total_steps
    save = session.settings.save
    if ends_epoch:
        yield from log.flush()
        yield EpochDone(epoch=epoch, step=step, mean_loss=log.epoch_mean())
    if validation.is_due(session, epoch, ends_epoch=ends_epoch, last=last):
        yield from log.flush()
        yield from validation.validate(session, step, epoch, last=last)
    last = last or validation.is_ended(session)
    by_epoch = bool(ends_epoch and save.save_every_n_epochs and epoch % save.save_every_n_epochs == 0)
    by_step = bool(save.save_every_n_steps and step % save.save_every_n_steps == 0)
    if (by_epoch or by_step) and not last:
        yield from log.flush()
        yield from saving.save_in_rhythm(session, step, epoch_ended=by_epoch)
    if sample_is_due(session.settings.sample, step, epoch, ends_epoch=ends_epoch, last=last):
        yield from log.flush()
        yield from draw_samples(session, step=step, epoch=epoch)
    log.leave_out_pause()


def finish(session: Session, control: Control, step: int) -> Iterator[EventBase]:
    """Write the last file, unless the person wanted none, and say how the run ended."""
    if not session.team.leads:
        return
    path: Path | None = None
    wanted = not control.stopped or (control.save and step > session.first_step)
    while wanted and path is None:
        try:
            for event in (
                saving.save_step(session, step, state=True) if control.stopped else saving.save_final(session, step)
            ):
                path = event.path if isinstance(event, CheckpointSaved) else path
                yield event
        except UserError as error:
            # A full disk must not cost the whole run: wait for room, or for the person to give up.
            yield saving.not_saved(error)
            yield StageChanged(stage="paused", done=step, total=session.plan.total_steps)
            if not control.wait(saving.RETRY_AFTER):
                raise
    yield RunFinished(reason="stopped" if control.stopped else "completed", step=step, path=path)
