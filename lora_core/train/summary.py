"""What a run will train, said in plain lines before the first step."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_core.adapters import ALGORITHMS
from lora_core.checks import effective_scale
from lora_core.events import Warned, warned
from lora_core.i18n import Language, text
from lora_core.train.device import describe
from lora_core.train.loss_weights import without_effect
from lora_core.train.session import cut_captions

if TYPE_CHECKING:
    from lora_core.train.session import Session


_WITHOUT_EFFECT = {
    "flow": "checks.flow_weights",
    "epsilon": "checks.not_for_epsilon",
    "v_prediction": "checks.not_for_velocity",
}
"""By what the model predicts, which is only known for sure when it is loaded."""


def lines(session: "Session", language: Language) -> list[str]:
    """Modules, precision, optimizer, images and the arithmetic of the steps."""
    settings, network = session.settings, session.network
    counts = {part: network.count_modules(part) for part in ("unet", "text_encoder", "text_encoder_2")}
    two = "_two" if counts["text_encoder_2"] else ""
    rates = {group["name"]: group.get("base_lr") for group in session.optimizer.param_groups}
    found = [
        text("train.summary.model", language, name=session.components.source.name),
        text(
            f"train.summary.network{two}" if counts["text_encoder"] else "train.summary.network_unet_only",
            language,
            algorithm=ALGORITHMS[settings.network.algo].title,
            unet=counts["unet"],
            text_encoder=counts["text_encoder"],
            text_encoder_2=counts["text_encoder_2"],
            parameters=network.count_parameters() / 1e6,
            rank=settings.network.rank,
            alpha=settings.network.alpha,
            scale=effective_scale(settings.network),
        ),
        text(
            f"train.summary.optimizer{two}",
            language,
            optimizer=settings.optimizer.name,
            schedule=settings.schedule.name,
            unet_rate=rates["unet"],
            text_rate=rates.get("text_encoder") or 0,
            text_rate_2=rates.get("text_encoder_2") or 0,
        ),
        text(
            "train.summary.device",
            language,
            device=describe(session.device),
            precision=session.precision,
            seed=session.seed,
        ),
        *session.plan.lines(language),
    ]
    if session.first_step:
        found.append(text("train.summary.resumed", language, step=session.first_step))
    return found


def warnings(session: "Session") -> Iterator[Warned]:
    """Things the person should know that do not stop the run."""
    model = session.settings.model
    cut = cut_captions(session, session.data_facts.captions)
    if cut:
        caption, tokens = max(cut, key=lambda item: item[1])
        values = {
            "count": len(cut),
            "limit": getattr(model, model.length_field),
            "caption": caption[:80],
            "tokens": tokens,
        }
        yield warned(f"model.{model.length_field}", "train.captions_cut", values)
    for path in without_effect(session.settings.loss, session.noise):
        yield warned(path, _WITHOUT_EFFECT[session.noise.prediction_type], {})
    if getattr(session.noise, "zero_terminal_snr", False) and session.noise.prediction_type == "epsilon":
        yield warned("noise.zero_terminal_snr", "checks.zero_snr_epsilon", {})
    for problem in session.data_facts.warnings:
        yield warned(problem.path, problem.key, problem.values)
