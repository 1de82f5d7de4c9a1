"""Models, folders, caches, saving, logs and sample pictures."""

import re
from pathlib import Path

from lora_core.settings.base import clean_path
from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.values import NotReadable, words

SAMPLERS = {"k_euler": "euler", "k_euler_a": "euler_a", "dpmsolver++": "dpmpp_2m_karras", "k_dpm_2": "euler"}
_MOST_PROMPTS = 100_000


def model(draft: Draft) -> None:
    """The source model; a name of Hugging Face is told as such."""
    base = draft.text("pretrained_model_name_or_path")
    if "pretrained_model_name_or_path" not in draft.given:
        return
    is_name = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base)) and not re.search(r"\.(safetensors|ckpt)$", base)
    draft.mapped("pretrained_model_name_or_path", "model.base", base, "why.hub_name" if is_name else "")


def image_folders(draft: Draft) -> None:
    """The parent of the folders, as Kohya wants it; the folder itself works here, too."""
    for key, path in (("train_data_dir", "dataset.train_dir"), ("reg_data_dir", "dataset.reg_dir")):
        folder = draft.text(key)
        own = bool(re.search(r"(^|[\\/])\d+_[^\\/]+[\\/]?$", folder)) and draft.given[key].name == key
        if folder:
            draft.mapped(key, path, folder, "why.child_folder" if own else "")


def caches(draft: Draft) -> None:
    """Two switches of Kohya, one choice here. Kohya's .npz files are left alone and not read."""
    memory, disk = draft.flag("cache_latents"), draft.flag("cache_latents_to_disk")
    choice = "disk" if disk else "memory" if memory else "off"
    draft.mapped("cache_latents", "dataset.cache_latents", choice)
    if disk:
        draft.differs("cache_latents_to_disk", "why.own_cache", "dataset.cache_latents", choice)
    draft.idle("cache_latents_to_disk")


def saving(draft: Draft) -> None:
    """What is kept of the saves on the way."""
    name = draft.text("output_name")
    if "output_name" in draft.given and name:
        draft.mapped("output_name", "save.output_name", name)
    else:
        draft.idle("output_name", "why.no_name")
    if draft.text("save_model_as") in ("", "safetensors"):
        draft.idle("save_model_as", "why.safetensors")
    epochs, steps = draft.whole("save_last_n_epochs"), draft.whole("save_last_n_steps")
    if steps and not epochs:
        keep = steps // (draft.whole("save_every_n_steps") or steps) + 1
        draft.differs("save_last_n_steps", "why.keep_steps", "save.keep_last_n", keep)
    if draft.text("resume"):
        draft.unsupported("resume", "todo.resume")
    draft.idle("resume")


def logs(draft: Draft) -> None:
    """TensorBoard is a switch here; its files lie in the output folder."""
    wanted = draft.text("log_with").lower()
    folder = draft.text("logging_dir")
    tensorboard = wanted in ("tensorboard", "all") or (not wanted and bool(folder))
    if draft.flag("use_wandb"):
        draft.unsupported("use_wandb", "todo.tracking")
    draft.idle("use_wandb")
    draft.changes["save.tensorboard"] = tensorboard
    if wanted in ("wandb", "all"):
        draft.unsupported("log_with", "todo.tracking")
    elif wanted:
        draft.mapped("log_with", "save.tensorboard", tensorboard)
    if folder:
        draft.differs("logging_dir", "why.log_folder", "save.tensorboard", tensorboard)
    draft.idle("log_with")
    draft.idle("logging_dir")


def samples(draft: Draft) -> None:
    """Sample pictures. By epochs beats by steps in Kohya; sd-scripts gives a file of prompts, the GUI the prompts."""
    epochs, steps = draft.whole("sample_every_n_epochs") or None, draft.whole("sample_every_n_steps") or None
    draft.mapped("sample_every_n_epochs", "sample.every_n_epochs", epochs)
    if epochs and steps:
        draft.changes["sample.every_n_steps"] = None
        draft.idle("sample_every_n_steps", "why.sample_epochs_win")
    else:
        draft.mapped("sample_every_n_steps", "sample.every_n_steps", steps)
    _sampler(draft)
    _prompts(draft)


def _sampler(draft: Draft) -> None:
    field = draft.field("sample.sampler")
    wanted = draft.text("sample_sampler").lower()
    near = SAMPLERS.get(wanted)
    if field and wanted in field.choices:
        draft.mapped("sample_sampler", "sample.sampler", wanted)
    elif field and near in field.choices:
        draft.differs("sample_sampler", "why.sampler", "sample.sampler", near)
    elif wanted:
        draft.unsupported("sample_sampler", "todo.sampler")


def _prompts(draft: Draft) -> None:
    given = draft.given.get("sample_prompts")
    if given is None:
        return
    if given.dialect == "gui":
        draft.mapped("sample_prompts", "sample.prompts", draft.text("sample_prompts"))
        return
    try:
        path = Path(str(clean_path(words(given.value))))
    except NotReadable:
        draft.unsupported("sample_prompts", "why.unreadable")
        return
    text = _file(path) if draft.may_read(path) and path.suffix.lower() == ".txt" else None
    if text is None:
        draft.unsupported("sample_prompts", "todo.prompts")
    else:
        draft.differs("sample_prompts", "why.prompts_read", "sample.prompts", text)


def _file(path: Path) -> str | None:
    try:
        if path.stat().st_size > _MOST_PROMPTS:
            return None
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError):
        return None
