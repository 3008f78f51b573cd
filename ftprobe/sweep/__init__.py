"""The sweep: a plan's missing trials as Ray Tune trials, on a local Ray or a cluster.

The only package that imports ray. `run_ray` is the only public name.
"""

from ftprobe.sweep.run import run_ray as run_ray
