"""What the Model test tab drew before, to be looked at again."""

from app.i18n import say
from app.words import run_label
from lora_core.i18n import Language
from lora_core.runs import RunFolder, list_runs, read_job_settings
from lora_core.settings.generate import GenerateSettings, GridSettings, PictureSettings, ProofSettings

SHOWN = 30
KINDS: dict[type[PictureSettings], str] = {
    GenerateSettings: "model_test.mode.pictures",
    GridSettings: "model_test.mode.grid",
    ProofSettings: "model_test.proof",
}
"""Settings of a job -> what it is called."""
LONGEST = 60
"""Letters of the first prompt that are shown."""


def earlier(language: Language) -> list[tuple[str, str]]:
    """(what is shown, run) of the last jobs of the tab, newest first. The kind is part of the folder's name."""
    names = tuple(kind.model_fields["job"].default for kind in KINDS)
    found: list[tuple[str, str]] = []
    for run in list_runs():
        if run_label(run.path.name)[0].partition("-")[0] in names and (words := label(run, language)):
            found.append((words, run.path.name))
        if len(found) == SHOWN:
            break
    return found


def label(run: RunFolder, language: Language) -> str:
    """When, what, and the first prompt or the LoRA; nothing for a run that is none of ours."""
    try:
        settings = read_job_settings(run.settings)
    except (OSError, ValueError):
        return ""
    if not isinstance(settings, PictureSettings):
        return ""
    about = next(iter(settings.prompts), "")[:LONGEST]
    if isinstance(settings, ProofSettings) and settings.lora is not None:
        about = settings.lora.name
    when = run_label(run.path.name)[1]
    return " · ".join(part for part in (when, say(KINDS[type(settings)], language), about) if part)
