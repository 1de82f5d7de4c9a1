"""Several layers at a time: numpy lets other threads run while it multiplies and decomposes."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST_WORKERS = 4
"""Each holds a layer of both models and what is computed from it: close to a gigabyte for the largest of FLUX."""


def workers() -> int:
    return min(os.cpu_count() or 1, MOST_WORKERS)


def blas_threads(*, side_by_side: bool) -> int:
    """Threads for each matrix product: one where matrices are small, else what cores the workers leave.

    Threads that share one product wait for each other in a loop, which costs most where other work wants the cores.
    """
    return max(1, (os.cpu_count() or 1) // workers()) if side_by_side else 1


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) in the items' order, computed by a few threads, with few results waiting at any time.

    An exception is raised where its result would have come; what has not begun by then is not begun.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers()) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > workers():
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _first(waiting: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Result]:
    item, future = waiting.popleft()
    return item, future.result()
