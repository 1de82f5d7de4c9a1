"""Small tools for going through many files: hashes of their content, and working ahead in threads."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lora_core.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises UserError if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError("data.image_unreadable", path=path, reason=error.strerror or error) from error


def ahead(function: Callable[[T], R], items: Iterable[T], *, workers: int | None = None) -> Iterator[R]:
    """``map`` with a few results worked out in advance by threads, in order. An error rises at its place in the order.

    Reading and decoding images leaves Python's lock alone, so threads help and nothing has to be pickled.
    """
    workers = workers or min(4, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
