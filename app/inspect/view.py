"""The upper part of the Inspect tab as HTML: what a file is, what is wrong with it, which programs will load it."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from app.i18n import say
from app.inspect.html import badges, clipped, copy_button, counted, facts, fold, number, safe, tag, tool_button, words
from app.inspect.picture import picture_html
from app.live import size_words
from lora_core.i18n import Language, text
from lora_core.inspect.recipe_keys import BASE_MODELS
from lora_core.inspect.report import Finding, HeaderReport, HostReport, PartReport
from lora_core.io.kinds import FAMILY_NAMES

MARKS = {"error": "✗", "warning": "!", "note": "i"}
ORDER = ("error", "warning", "note")
CURES = {"junk": "clean", "zero_layers": "clean", "rank_oversized": "resize"}
"""Finding -> the tool that cures it."""


def head_html(report: HeaderReport, language: Language) -> str:
    """The card at the top. Anything that is no LoRA gets a short one that says so."""
    if report.kind != "lora":
        return other_html(report, language)
    parts = [
        words(clipped(report.title or report.path.stem, 200), "in-title", name="h2"),
        words(clipped(report.path.name, 300), "in-file", name="div")
        if report.title and report.title != report.path.stem
        else "",
        badges(lora_badges(report, language)),
        prompt_html(report, language),
        facts(lora_facts(report, language)),
        fold(say("inspector.description", language), description_html(report), is_open=len(report.description) < 400),
    ]
    return tag(
        "div", picture_html(report.thumbnail, language) + tag("div", "".join(parts), "in-about"), "in-card in-head"
    )


def lora_badges(report: HeaderReport, language: Language) -> list[str]:
    """The five things people look for first."""
    algorithms = " + ".join(algorithm_word(name, language) for name in report.algorithms)
    family = report.family_name if report.family != "unknown" else say("inspector.family_unknown", language)
    return [family, algorithms, *rank_badges(report, language), report.precision, size_words(report.size)]


def rank_badges(report: HeaderReport, language: Language) -> list[str]:
    if not report.ranks:
        return []
    rank = say("inspector.rank", language, rank=counted(report.ranks))
    alpha = say("inspector.alpha", language, alpha=counted(report.alphas)) if report.alphas else ""
    return [rank, alpha or say("inspector.no_alpha", language)]


ALGORITHMS = frozenset({"lora", "locon", "loha", "lokr", "dora", "glora", "ia3", "full", "norm", "oft"})


def algorithm_word(name: str, language: Language) -> str:
    """LoRA, LoCon, LoHa ...; a name of tomorrow is shown as it is."""
    return say(f"inspector.algorithm.{name if name in ALGORITHMS else 'unknown'}", language)


def lora_facts(report: HeaderReport, language: Language) -> list[tuple[str, str]]:
    values = {
        "layers": layers_words(report, language),
        "strength": strength_words(report),
        "base": base_words(report),
        "trigger": report.trigger_words,
        "author": report.author,
        "license": report.license,
        "comment": report.comment,
        "naming": say(f"inspector.naming.{report.naming}", language)
        if report.naming not in ("kohya", "unknown")
        else "",
        "program": report.program,
        "merged_from": ", ".join(report.merged_from),
    }
    return [(say(f"inspector.fact.{key}", language), value) for key, value in values.items()]


def strength_words(report: HeaderReport) -> str:
    """alpha / rank, when one pair holds for the whole file."""
    if len(report.ranks) != 1 or len(report.alphas) != 1 or not report.rank or report.alpha is None:
        return ""
    return f"{report.alpha:g} / {report.rank} = {number(report.alpha / report.rank)}"


def layers_words(report: HeaderReport, language: Language) -> str:
    """ "264 of 264 · U-Net 192 of 192 · text encoder 72 of 72"."""
    whole = of_words(report.layers, report.targets, language)
    if len(report.parts) < 2:
        return (
            f"{whole} · {say('inspector.only', language, part=report.parts[0].name(language))}"
            if report.parts
            else whole
        )
    return " · ".join([whole, *(part_words(part, language) for part in report.parts)])


def part_words(part: PartReport, language: Language) -> str:
    return f"{part.name(language)} {of_words(part.layers, part.targets, language)}"


def of_words(layers: int, targets: int, language: Language) -> str:
    if not targets or layers > targets:
        return f"{layers:,}"
    return say("inspector.of", language, layers=layers, targets=targets)


def base_words(report: HeaderReport) -> str:
    base = report.base
    hashes = base.short_hash or base.sha256[:10]
    vae = f"VAE: {base.vae_name}" if base.vae_name else ""
    return " · ".join(part for part in (base.name or BASE_MODELS.get(base.version, base.version), hashes, vae) if part)


def description_html(report: HeaderReport) -> str:
    return words(clipped(report.description), "in-text", name="p") if report.description else ""


# ---- the prompt ------------------------------------------------------------------------------------------------------


def prompt_of(report: HeaderReport) -> str:
    """What to paste into the prompt: the LoRA and its trigger words."""
    triggers = " ".join(clipped(report.trigger_words, 500).split())
    return " ".join(part for part in (f"<lora:{report.path.stem}:1>", triggers) if part)


def prompt_html(report: HeaderReport, language: Language) -> str:
    prompt = prompt_of(report)
    inner = words(prompt, name="code") + copy_button(prompt, say("inspector.copy_prompt", language))
    return tag("div", inner, "in-prompt", title=say("inspector.prompt", language))


# ---- what is no LoRA -------------------------------------------------------------------------------------------------


def other_html(report: HeaderReport, language: Language) -> str:
    """Honest and short: what it is, and that this tab is for LoRA files."""
    name = text(f"inspect.kind.{report.kind}", language)
    family = FAMILY_NAMES[report.family] if report.family != "unknown" else ""
    values = {
        "parts": " + ".join(other_parts(report, language)),
        "tensors": f"{report.tensors:,}",
        "parameters": f"{report.parameters:,}" if report.parameters else "",
        "prediction": "v-prediction" if report.prediction_type == "v_prediction" else "",
        "title": report.title,
        "author": report.author,
        "license": report.license,
    }
    parts = [
        words(clipped(report.path.name, 200), "in-title", name="h2"),
        badges([name[:1].upper() + name[1:], family, report.precision, size_words(report.size)]),
        words(say(f"inspector.other.{report.kind}", language), "in-text", name="p"),
        facts((say(f"inspector.fact.{key}", language), value) for key, value in values.items()),
    ]
    return tag("div", tag("div", "".join(parts), "in-about"), "in-card in-other")


def other_parts(report: HeaderReport, language: Language) -> list[str]:
    if report.kind != "checkpoint":
        return []
    held = {"unet": True, "text_encoder": report.has_text_encoder, "vae": report.has_vae}
    return [say(f"inspector.held.{part}", language) for part, there in held.items() if there]


def error_html(message: str) -> str:
    """Why a file can't be shown."""
    icon = tag("span", "!", "kb-card-icon", aria_hidden="true")
    head = words(message, "kb-card-head", name="div")
    return tag("div", icon + tag("div", head), "kb-card kb-bad", role="alert")


# ---- findings and programs -------------------------------------------------------------------------------------------


def findings_html(findings: Sequence[Finding], language: Language, *, read: bool) -> str:
    """What is wrong, gravest first, each with what to do. ``read``: the weights were looked at, too."""
    ordered = sorted(findings, key=lambda finding: ORDER.index(finding.severity))
    if not ordered:
        return fine_html("inspector.fine" if read else "inspector.fine_header", language)
    items = "".join(finding_html(finding, language) for finding in ordered)
    return tag("ul", items, "in-findings")


def fine_html(key: str, language: Language) -> str:
    return tag("p", tag("span", "✓", "in-mark in-ok", aria_hidden="true") + words(say(key, language)), "in-fine")


def finding_html(finding: Finding, language: Language) -> str:
    severity = say(f"inspector.severity.{finding.severity}", language)
    mark = tag(
        "span",
        MARKS[finding.severity],
        f"in-mark in-{finding.severity}",
        title=severity,
        role="img",
        aria_label=severity,
    )
    message = words(finding.message(language), "in-message")
    cure = CURES.get(finding.key, "")
    options = {"rank": finding.values["keep"]} if "keep" in finding.values else {}
    button = tool_button(cure, say(f"inspector.tool.{cure}", language), **options) if cure else ""
    return tag(
        "li",
        mark + tag("div", message + button + layers_html(finding, language)),
        f"in-finding in-is-{finding.severity}",
    )


def layers_html(finding: Finding, language: Language) -> str:
    """The layers a finding is about, folded away."""
    if not finding.layers:
        return ""
    more = finding.count - len(finding.layers)
    names = [*finding.layers, *([say("inspector.more_layers", language, count=more)] if more > 0 else [])]
    items = "".join(words(clipped(name, 300), name="li") for name in names)
    return tag("details", words(say("inspector.which", language), name="summary") + tag("ul", items), "in-which")


def hosts_html(hosts: Iterable[HostReport], language: Language) -> str:
    """A line a program: "A1111 / Forge: 264/264 will load"."""
    return tag("ul", "".join(host_html(host, language) for host in hosts), "in-hosts")


def host_html(host: HostReport, language: Language) -> str:
    state = "ok" if host.loaded == host.total else "error" if not host.loaded else "warning"
    mark = tag("span", "✓" if state == "ok" else "!", f"in-mark in-{state}", aria_hidden="true")
    refused = "".join(words(clipped(name, 300), name="li") for name in host.refused)
    which = (
        tag("details", words(say("inspector.which", language), name="summary") + tag("ul", refused), "in-which")
        if refused
        else ""
    )
    return tag("li", mark + tag("div", words(host.message(language), "in-message") + which), "in-host")


def section(title: str, body: str, classes: str = "", make: Callable[[str], str] = str, name: str = "h3") -> str:
    """A titled part of the page; nothing when it is empty."""
    if not body:
        return ""
    return tag("section", tag(name, safe(title)) + make(body), f"in-section {classes}".strip())


def columns(*parts: str) -> str:
    """Parts side by side where there is room."""
    return tag("div", "".join(parts), "in-columns") if any(parts) else ""


def overview_html(
    findings: Sequence[Finding], hosts: Sequence[HostReport] | None, language: Language, waiting: str = ""
) -> str:
    """Findings, and beside them the programs, which are known once the weights were read (``hosts`` is None before)."""
    found = section(say("inspector.findings", language), findings_html(findings, language, read=hosts is not None))
    if hosts is None:
        return columns(found, section(say("inspector.hosts", language), words(waiting, "in-note") if waiting else ""))
    return columns(found, section(say("inspector.hosts", language), hosts_html(hosts, language) if hosts else ""))


def metadata_html(metadata: Mapping[str, str], language: Language) -> str:
    """Every entry as it stands in the file, as text and cut to a length a page can bear."""
    most = 400
    rows = "".join(
        tag("div", words(clipped(key, 200), name="dt") + words(clipped(value), name="dd"))
        for key, value in sorted(metadata.items())[:most]
    )
    more = len(metadata) - most
    left_out = words(say("inspector.more_entries", language, count=more), "in-note", name="p") if more > 0 else ""
    return tag("dl", rows, "in-raw") + left_out if rows else ""
