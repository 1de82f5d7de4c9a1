"""One part of the Inspect tab's report: HTML made on the server, and what a click in it does."""

from pathlib import Path
from typing import Any

import gradio as gr

from app.inspect.tools import TOOLS
from app.widgets.run_status import COPY_ON_CLICK

ACTIONS = frozenset({*TOOLS, "weights", "parameters", "show", "replace", "replace_yes", "replace_no"})
"""What a button in the report may ask for."""


def build(elem_id: str) -> gr.HTML:
    """Place a part here. ``select`` events carry a click on one of its buttons."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    return gr.HTML(
        "",
        js_on_load=COPY_ON_CLICK + script,
        elem_id=elem_id,
        elem_classes="kb-report in-report",
        padding=False,
        apply_default_css=False,
    )


def asked(event: gr.EventData) -> tuple[str, dict[str, Any]]:
    """(action, its values) of a click; ("", {}) for anything a page of ours would not send."""
    data = event._data if isinstance(event._data, dict) else {}
    action = data.get("tool")
    if not isinstance(action, str) or action not in ACTIONS:
        return "", {}
    return action, {key: value for key, value in data.items() if key != "tool"}


def wanted_rank(values: dict[str, Any]) -> int | None:
    """The rank a button proposes, if it is one."""
    rank = str(values.get("rank", ""))
    return int(rank) if rank.isdecimal() and len(rank) < 5 and int(rank) else None
