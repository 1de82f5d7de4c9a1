"""Several layers at a time: the same answers in the same order, whatever happens on the way."""

import threading
import time

import pytest

from lora_core.merge.parallel import blas_threads, in_order, workers


def test_the_order_is_that_of_the_items():
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(in_order(slow_first, range(20))) == [(i, i * i) for i in range(20)]


def test_few_results_wait_at_any_time():
    begun = []
    steps = in_order(begun.append, range(100))
    next(steps)
    time.sleep(0.1)
    assert len(begun) <= 2 * workers() + 2
    steps.close()


def test_an_exception_comes_at_its_place():
    def broken(item):
        if item == 3:
            raise KeyError(item)
        return item

    steps = in_order(broken, range(50))
    assert [next(steps)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(steps)
    assert threading.active_count() < 20


def test_threads_of_products():
    assert blas_threads(side_by_side=False) == 1
    assert blas_threads(side_by_side=True) >= 1
