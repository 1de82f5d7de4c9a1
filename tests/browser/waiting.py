"""Waiting for a page to become what it should be: updates arrive when the machine has time for them."""

import time
from collections.abc import Callable
from typing import Any


def until(page: Any, condition: Callable[[], Any], seconds: float = 90) -> Any:
    """The condition's value once it is true. Fails when it does not become so in time."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(100)


def fill_in(page: Any, box: Any, value: str) -> None:
    """Types as a person does: what was just opened may put its old value back once, faster than anybody types."""

    def stays() -> bool:
        box.fill(value)
        page.wait_for_timeout(250)
        return box.input_value() == value

    until(page, stays)
