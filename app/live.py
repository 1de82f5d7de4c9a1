"""What the page says while somebody fills it in: problems, the model's card, the folder tree, the steps."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from app.family import family_line
from app.form import Values, for_component, read, read_legal
from app.i18n import say
from app.words import denoiser_name
from lora_core.checks import effective_scale, has_no_rank
from lora_core.data.folders import scan
from lora_core.errors import Problem, UserError
from lora_core.families.source import BUILT_IN, base_path, is_hub_name, require_base
from lora_core.i18n import Language
from lora_core.io.headers import identify
from lora_core.io.kinds import FAMILY_NAMES, FileKind
from lora_core.plan import Plan, Preview, preview
from lora_core.preflight import check
from lora_core.selection import count
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of, label
from lora_core.settings.problems import SettingsError

_FRESH_SECONDS = 5.0
_MOST_LINES = 40


@dataclass(frozen=True)
class Findings:
    """The settings that the page shows, as far as they are legal, and what is wrong with them."""

    settings: RunSettings
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")


def findings(values: Values, *, all_required: bool = True, starting: bool = False) -> Findings:
    """Check what the page shows. Without ``all_required``, fields nobody has filled in yet are not called missing.

    ``starting`` is for the moment before a run: it reads every image whole and makes the output folder.
    """
    try:
        settings, illegal = read(values), []
    except SettingsError as error:
        settings, illegal = read_legal(values), error.problems
    wrong = {problem.path for problem in illegal}
    checked = check(settings, starting=starting, deep=starting)
    found = [*illegal, *(problem for problem in checked if problem.path not in wrong)]
    if not all_required:
        found = [p for p in found if not (p.severity == "error" and _is_untouched(p.path, values))]
    return Findings(settings, _unique(found))


def _unique(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Two checks may find the same thing; it is said once."""
    return tuple({(problem.path, problem.message()): problem for problem in problems}.values())


def _is_untouched(path: str, values: Values) -> bool:
    """Empty, and so from the start: a number that somebody emptied is a mistake at once."""
    field = fields_of().get(path)
    return field is not None and for_component(field, field.default) == values.get(path) == ""


def problem_items(problems: Iterable[Problem], tab_of: Mapping[str, str], language: Language) -> list[dict[str, Any]]:
    """Problems for the list above Train model and for the marks at the fields."""
    return [_item(problem, tab_of, language) for problem in problems]


def _item(problem: Problem, tab_of: Mapping[str, str], language: Language) -> dict[str, Any]:
    tab = tab_of.get(problem.path, "")
    message = problem.message(language)
    return {
        "path": problem.path,
        "tab": tab,
        "tabLabel": say(f"tab.{tab}", language) if tab else "",
        "label": label(problem.path, language) if problem.path in fields_of() else problem.path,
        "text": message[:1].upper() + message[1:],
        "severity": problem.severity,
        "fix": problem.fix,
        "fixLabel": fix_label(problem.fix, language) if problem.fix else "",
    }


def fix_label(fix: Mapping[str, Any], language: Language) -> str:
    """What a fix would do: "Set Learning rate to 1.0"."""
    path, value = next(iter(fix.items()))
    shown = say("fix.empty", language) if value in (None, "") else _short(value, language)
    return say("fix.one" if len(fix) == 1 else "fix.more", language, label=label(path, language), value=shown)


def _short(value: Any, language: Language) -> str:
    if isinstance(value, bool):
        return say("fix.on" if value else "fix.off", language)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 44 else "…" + text[-43:]


class Previews:
    """Remembers the last look at the folders for a few seconds: each key stroke elsewhere on the page asks again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[str, float, Preview] | None = None

    def get(self, settings: RunSettings) -> Preview:
        train = settings.train
        key = f"{settings.dataset.model_dump_json()}{train.train_batch_size}/{train.epochs}/{train.max_train_steps}"
        key += f"/{train.gradient_accumulation_steps}/{settings.loss.prior_loss_weight}"
        with self._lock:
            if self._kept and self._kept[0] == key and time.monotonic() - self._kept[1] < _FRESH_SECONDS:
                return self._kept[2]
            found = _preview(settings)
            self._kept = key, time.monotonic(), found
            return found


def _preview(settings: RunSettings) -> Preview:
    try:
        return preview(settings)
    except UserError:  # an image went away between two looks; the next look names it
        return Preview(scan(settings.dataset), None)


@dataclass(frozen=True)
class Look:
    """What the reports of the page are made of."""

    settings: RunSettings
    found: Preview


Report = Callable[[Look, Language], str]
"""Makes the HTML of one report, in one language."""


def folders_html(look: Look, language: Language) -> str:
    """The tree of folders that was found and how it becomes steps."""
    settings, found = look.settings, look.found
    if settings.draws_its_pictures:
        return f'<div class="kb-card">{plan_html(found.plan, language)}</div>'
    if not settings.dataset.has_pictures:
        return _hint("folders.hint", language)
    lines = [
        f'<li class="{"reg" if subset.is_reg else "train"}">{escape(subset.line(language))}</li>'
        for subset in found.scan.subsets[:_MOST_LINES]
    ]
    more = len(found.scan.subsets) - _MOST_LINES
    if more > 0:
        lines.append(f"<li>{escape(say('folders.more', language, count=more))}</li>")
    if not lines:
        return _hint("folders.nothing", language)
    tree = f'<ul class="kb-tree">{"".join(lines)}</ul>'
    return f'<div class="kb-card">{tree}{plan_html(found.plan, language)}</div>'


def plan_html(plan: Plan | None, language: Language) -> str:
    if plan is None:
        return ""
    lines = "".join(f"<div>{escape(line)}</div>" for line in plan.lines(language))
    return f'<div class="kb-plan">{lines}</div>'


def scale_html(look: Look, language: Language) -> str:
    """alpha / rank, spelled out; it is what people get wrong."""
    network = look.settings.network
    values = {"alpha": f"{network.alpha:g}", "rank": network.rank, "scale": f"{effective_scale(network):.3g}"}
    key = "parameters.scale_rs" if network.rs_lora else "parameters.scale"
    if network.algo == "oft":
        words = say("parameters.scale_oft", language)
    else:
        words = say("parameters.scale_full", language) if has_no_rank(network) else say(key, language, **values)
    return f'<div class="kb-note">{escape(words)}</div>'


def layers_html(look: Look, language: Language) -> str:
    """How many layers the patterns and blocks leave; nothing for the built-in model, which has fewer than real ones."""
    settings = look.settings
    try:
        found = None if settings.model.base.strip() == BUILT_IN else count(settings)
    except UserError as error:
        return f'<div class="kb-note">{escape(error.message(language))}</div>'
    if found is None:
        return ""
    unet = found.chosen - found.text
    words = [say("parameters.layers_count", language, chosen=found.chosen, all=found.of, unet=unet, text=found.text)]
    low, high = found.ranks
    if low != high:
        words.append(say("parameters.layers_ranks", language, low=low, high=high))
    slow, fast = found.rates
    if slow != fast:
        words.append(say("parameters.layers_rates", language, low=f"{slow:g}", high=f"{fast:g}"))
    return f'<div class="kb-note">{escape((" " if language == "en" else "").join(words))}</div>'


def trained_html(look: Look, language: Language) -> str:
    """Which parts learn, and how fast."""
    train = look.settings.train
    if not getattr(look.settings.optimizer, "relative_step", False):
        unet = f"{train.unet_lr or train.learning_rate:g}"
        text = train.text_encoder_lr or train.learning_rate
        both = "parameters.trained_two" if look.settings.model.family == "sdxl" else "parameters.trained_both"
        key = both if train.train_text_encoder else "parameters.trained_unet"
        denoiser = denoiser_name(look.settings.model.family, language)
        words = say(
            key, language, denoiser=denoiser, unet=unet, text=f"{text:g}", text_2=f"{train.text_encoder_2_lr or text:g}"
        )
    else:
        words = say("parameters.trained_own", language)
    return f'<div class="kb-note">{escape(words)}</div>'


def model_html(look: Look, language: Language) -> str:
    """The card of the source model: what its header says it is, or why it can't be used."""
    model = look.settings.model
    base = model.base.strip()
    if not base:
        return _hint("model.hint", language, family=FAMILY_NAMES[model.family])
    try:
        kind = require_base(model)
        if kind is None:
            return _card("model.hub", language, "ok", name=base)
        words = kind_words(kind, language)
        name = say("model.built_in", language) if base == BUILT_IN else kind.path.name
        return _model_card("ok", name, words) + family_line(look.settings, language)
    except UserError as error:
        detail = ""
        if base != BUILT_IN and not is_hub_name(base):
            detail = _what_it_is(look.settings, language)
        return _model_card("bad", error.message(language), detail)


def kind_words(kind: FileKind, language: Language) -> str:
    """What a model file is: "Stable Diffusion 1.x checkpoint, fp16, 2.0 GB"."""
    what = say(f"model.kind.{kind.kind}", language, family=FAMILY_NAMES[kind.family])
    parts = [what, kind.dtype, size_words(kind.size)]
    if kind.prediction_type == "v_prediction":
        parts.append("v-prediction")
    return ", ".join(part for part in parts if part)


def size_words(size: int) -> str:
    if not size:
        return ""
    return f"{size / 2**30:.1f} GB" if size >= 0.95 * 2**30 else f"{max(size / 2**20, 0.1):.1f} MB"


def _what_it_is(settings: RunSettings, language: Language) -> str:
    try:
        return kind_words(identify(base_path(settings.model)), language)
    except UserError:
        return ""


def _model_card(state: str, head: str, detail: str) -> str:
    icon = "✓" if state == "ok" else "!"
    body = f'<div class="kb-card-detail">{escape(detail)}</div>' if detail else ""
    return (
        f'<div class="kb-card kb-{state}"><span class="kb-card-icon" aria-hidden="true">{icon}</span>'
        f'<div><div class="kb-card-head">{escape(head)}</div>{body}</div></div>'
    )


def _card(key: str, language: Language, state: str, **values: Any) -> str:
    return _model_card(state, say(key, language, **values), "")


def _hint(key: str, language: Language, **values: Any) -> str:
    return f'<div class="kb-hint">{escape(say(key, language, **values))}</div>'
