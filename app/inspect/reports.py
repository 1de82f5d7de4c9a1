"""The reports the Inspect tab shows, each made once for a file as it is on the disk now."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from app.folder_view import is_allowed
from app.merge.values import FormError
from lora_core.errors import UserError
from lora_core.inspect.compare import compare
from lora_core.inspect.header import inspect_header
from lora_core.inspect.report import Comparison, HeaderReport, WeightReport
from lora_core.inspect.weights import inspect_weights
from lora_core.io.headers import read_header
from lora_core.settings.base import clean_path

READ_AT_ONCE = 500 * 2**20
"""Bytes up to which the weights of a LoRA are read without being asked for."""
Report = TypeVar("Report")


class Reports:
    """Keeps the last few reports, so that a second look and the other tab of the same page cost nothing."""

    def __init__(self, roots: Sequence[Path] = (), keep: int = 8):
        self.roots = roots
        self.keep = keep
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def header(self, path: Path) -> HeaderReport:
        """Raises UserError for a file that can't be read or is none."""
        return self._once("header", self._header, path)

    def _header(self, path: Path) -> HeaderReport:
        report = inspect_header(path)
        picture = report.thumbnail.path if report.thumbnail else None
        return replace(report, thumbnail=None) if picture and not is_allowed(picture, self.roots) else report

    def metadata(self, path: Path) -> dict[str, str]:
        return self._once("metadata", lambda file: dict(read_header(file).metadata) if file.is_file() else {}, path)

    def weights(self, path: Path) -> WeightReport:
        """Reads every weight; takes about a second for each hundred megabytes."""
        return self._once("weights", inspect_weights, path)

    def comparison(self, a: Path, b: Path) -> Comparison:
        """Raises UserError for files that can't be compared: of two families, say."""
        return self._once("comparison", compare, a, b)

    def file(self, typed: object) -> Path | None:
        """The file a box names; None for an empty box. Raises FormError outside the folders this page may show."""
        cleaned = clean_path(typed) if isinstance(typed, str) else None
        if not cleaned:
            return None
        if "\0" in cleaned or len(cleaned) > 4096:
            raise FormError("inspector.bad_path")
        path = Path(cleaned)
        if not is_allowed(path, self.roots):
            raise FormError("browse.not_allowed")
        return path

    def _once(self, what: str, make: Callable[..., Report], *paths: Path) -> Report:
        key = (what, *(_version(path) for path in paths))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        report = make(*paths)
        with self._lock:
            self._kept[key] = report
            while len(self._kept) > self.keep:
                self._kept.popitem(last=False)
        return report


def _version(path: Path) -> tuple[str, int, int]:
    """A file as it is now; another one after it was written anew."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise UserError("model.missing", path=path) from None
    except (OSError, ValueError) as error:
        raise UserError("model.cannot_read", path=path, reason=getattr(error, "strerror", None) or error) from error
    return str(path), stat.st_size, stat.st_mtime_ns
