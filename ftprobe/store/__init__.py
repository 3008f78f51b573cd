"""The store: where artifacts, failures, logs and study documents live, on a disk or any pyarrow filesystem.

`Store` is the only public name; an artifact is there whole or not at all, and its id says what it is.
"""

from ftprobe.store.artifacts import Store as Store
