"""Patience: how long requests to a store on a network are repeated before the store counts as out of reach.

Pauses grow and are drawn at random (AWS Architecture Blog, "Exponential backoff and jitter", full jitter), so that many
workers do not come back at once. AWS's own library has repeated each request a few times, for seconds, before.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from typing import TypeVar

from ftprobe.store.faults import passing, store_error

LIMIT_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 8.0
_LEAST_ATTEMPTS = 4
_TELL_AFTER_S = 5.0
_LONGEST_SILENCE_S = 30.0
_Answer = TypeVar("_Answer")


class Patience:
    """Repeats requests of one process; picklable.

    A request is given up when nothing has been heard from the store for `limit_s` seconds, or when it alone has failed
    for so long and four times at least. Once the store has been silent that long, further requests are tried once each
    until one succeeds: a process that must clean up does not wait as many times again.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self._silent_since: float | None = None
        self._told = False
        self._random = random.Random()  # its own: training draws from the global one

    def __reduce__(self) -> tuple[type[Patience], tuple[float]]:
        return type(self), (self.limit_s,)

    def ask(self, request: Callable[[], _Answer], address: str, doing: str) -> _Answer:
        """What `request` answers; errors that repeating cannot help are raised as they are.

        Raises
        ------
        StoreError
            The store stayed out of reach.
        """
        begun, attempts, failing_since = time.monotonic(), 0, math.inf
        while True:
            asked = time.monotonic()
            try:
                answer = request()
            except OSError as error:
                if not passing(error):
                    raise
                attempts += 1
                # a request that took longer was being answered for some of that time
                silent_since = max(asked, time.monotonic() - _LONGEST_SILENCE_S)
                failing_since = min(failing_since, silent_since)
                if self._is_over(failing_since, silent_since, attempts):
                    tried = f" (tried {attempts} times in {time.monotonic() - begun:.0f} s)"
                    raise store_error(address, doing, error, tried) from error
                self._tell(address, error)
                time.sleep(self._random.uniform(0.0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempts)))
            else:
                self._silent_since, self._told = None, False
                return answer

    def suspect(self, since: float) -> None:
        """Another process of this machine has had no luck since then (`time.monotonic()`)."""
        self._silent_since = since if self._silent_since is None else min(since, self._silent_since)

    def _is_over(self, failing_since: float, silent_since: float, attempts: int) -> bool:
        since = self._silent_since  # other threads reset it
        if since is None:
            since = self._silent_since = silent_since
        now = time.monotonic()
        silent = now - since >= self.limit_s
        return silent or (now - failing_since >= self.limit_s and attempts >= _LEAST_ATTEMPTS)

    def _tell(self, address: str, error: OSError) -> None:
        """One line in the log of whoever waits, once an outage."""
        silent_s = time.monotonic() - (self._silent_since or time.monotonic())
        if silent_s >= _TELL_AFTER_S and not self._told:
            self._told = True
            message = "no answer about %s for %.0f s (%s); trying for %.0f s"
            logging.getLogger(__name__).warning(message, address, silent_s, error, self.limit_s)
