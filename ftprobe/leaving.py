"""Leaving: whether this machine is about to be taken away, as every part of a process may ask."""

from __future__ import annotations

import threading

LEAVING = threading.Event()  # set once, by whoever hears of it first
