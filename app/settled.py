"""One request for many changes in a short time.

Filling the form changes a hundred fields at once, and each change would send the whole form. Here a change only starts
a short wait in the browser; when no other comes, a button that nobody sees is pressed, and it is that which asks.
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.page import quiet

_WAIT = 60
"""Milliseconds without another change. A person who types has longer pauses, and is shown the answer at each."""
_LOOK_AGAIN = 300
"""Milliseconds. A tab that was not opened yet has no button: what is asked there waits until it is."""

SCRIPT = f"""
<script>
window.kbSettle = (id) => {{
  const waiting = (window.kbWaiting ??= {{}});
  const press = () => {{
    const button = document.getElementById(id);
    if (button) button.click();
    else waiting[id] = setTimeout(press, {_LOOK_AGAIN});
  }};
  clearTimeout(waiting[id]);
  waiting[id] = setTimeout(press, {_WAIT});
}};
</script>
"""


class Settled:
    """The end of a row of changes, as an event."""

    def __init__(self, changes: Sequence[Any], elem_id: str):
        """``changes``: events of components, any of which starts the wait anew."""
        self._press = {"fn": None, "js": f"() => window.kbSettle('{elem_id}')", **quiet()}
        self.then = gr.Button("", elem_id=elem_id, elem_classes="kb-unseen").click
        """Registers what follows, as the ``click`` of a button does."""
        for change in changes:  # not one event for all: at each change it would ask for the state of every one of them
            change(**self._press)

    def after(self, event: Any) -> None:
        """Also wait after an event that changes what tells of no change itself."""
        event.then(**self._press)
