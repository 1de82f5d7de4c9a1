"""What Kohya has for FLUX.1 alone: its files, and how noise is drawn and compared."""

from collections.abc import Mapping
from typing import Any

from lora_core.settings.base import clean_path
from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.values import NotReadable, as_field

SCRIPT_DEFAULTS: Mapping[str, Any] = {
    "timestep_sampling": "sigma",
    "model_prediction_type": "sigma_scaled",
    "weighting_scheme": "none",
    "guidance_scale": 3.5,
    "discrete_flow_shift": 3.0,
}
"""Of flux_train_network.py. The GUI shows the same."""

_PLAIN = {
    "discrete_flow_shift": "noise.discrete_flow_shift",
    "sigmoid_scale": "noise.sigmoid_scale",
    "guidance_scale": "model.guidance",
}


def flux(draft: Draft) -> None:
    """Where the parts are, and the noise. The stock form's "sigma" and "sigma_scaled" are told and not copied."""
    if not draft.flag("flux1_checkbox"):
        return
    if vae := clean_path(draft.text("ae")):
        draft.mapped("ae", "model.vae", str(vae))
    _answer(draft)
    _timesteps(draft)
    for key, path in _PLAIN.items():
        _number(draft, key, path)


def _said(draft: Draft, key: str) -> str:
    return draft.text(key) or str(SCRIPT_DEFAULTS[key])


def _answer(draft: Draft) -> None:
    """Only the raw answer is compared with the target here; the other kinds compare unlike things."""
    if _said(draft, "model_prediction_type") == "raw":
        draft.idle("model_prediction_type", "why.flow_raw")
    else:
        draft.differs("model_prediction_type", "why.flow_other_answer")


def _timesteps(draft: Draft) -> None:
    wanted, path = _said(draft, "timestep_sampling"), "noise.timestep_sampling"
    field = draft.field(path)
    assert field is not None
    weighting = _said(draft, "weighting_scheme") if draft.dialect == "scripts" else "none"
    if wanted == "sigma" and weighting == "logit_normal":
        draft.differs("timestep_sampling", "why.flow_logit", path, "logit_normal")
        draft.mapped("weighting_scheme", path, "logit_normal")
        for key, place in (("logit_mean", "noise.logit_mean"), ("logit_std", "noise.logit_std")):
            _number(draft, key, place)
        return
    if wanted == "sigma":
        draft.differs("timestep_sampling", "why.flow_sigma", path, "shift")
    elif wanted in field.choices:
        draft.mapped("timestep_sampling", path, wanted)
    else:
        draft.unsupported("timestep_sampling", "why.no_choice", choices=", ".join(field.choices), default=field.default)
    if weighting not in ("none", "uniform"):
        draft.unsupported("weighting_scheme", "todo.flow_weighting")


def _number(draft: Draft, key: str, path: str) -> None:
    field = draft.field(path)
    value = draft.number(key) if key in draft.given else SCRIPT_DEFAULTS.get(key)
    if value is None or field is None:
        return
    try:
        draft.mapped(key, path, as_field(value, field))
    except NotReadable:
        draft.unsupported(key, "why.unreadable")
