"""Threads for work on many small matrices: these are shared out, and each product runs on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Ints = NDArray[np.int64]


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


_threads: ContextVar[int] = ContextVar("threads", default=0)  # of BLAS before `own_threads` took them


@contextmanager
def own_threads() -> Iterator[int]:
    """Keep products of BLAS to one thread each; yields how many it might use before.

    Threads of BLAS make small products several times slower than none.
    """
    T = _threads.get() or max((each.num_threads for each in _blas().lib_controllers), default=1)
    if T == 1 or _threads.get():
        yield T
        return
    before = _threads.set(T)
    try:
        with _blas().limit(limits=1):
            yield T
    finally:
        _threads.reset(before)


def share_out(work: Callable[[Ints], None], n: int, threads: int) -> None:
    """Run `work` on places 0 to n - 1, on each thread a share of them."""
    T = min(threads, n)
    if T == 1:
        work(np.arange(n))
        return
    with ThreadPoolExecutor(T) as pool:
        for done in [pool.submit(work, np.arange(t, n, T)) for t in range(T)]:
            done.result()
