"""Probe families by name: built in, or added by a package through the entry-point group `ftprobe.probes`.

Importing this is light: options only; a family's runner is imported when a trial runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points

from ftprobe.probes import clusters, elastic_net, linear, mlp, neurons
from ftprobe.probes.probe import Probe as Probe
from ftprobe.probes.probe import ProbeData as ProbeData
from ftprobe.probes.probe import Size as Size
from ftprobe.probes.probe import Work as Work
from ftprobe.tasks.types import Level

ITEMS: tuple[Level, ...] = ("sentence", "pair", "word", "word_pair")
BUILT_IN = (
    Probe("linear", linear.LinearOptions, 1, "ftprobe.probes.linear_run:run", ITEMS, work=linear.work),
    Probe(
        "elastic_net",
        elastic_net.ElasticNetOptions,
        1,
        "ftprobe.probes.elastic_net_run:run",
        ITEMS,
        seeded=True,
        by_layer=True,
        work=elastic_net.work,
    ),
    Probe(
        "mlp",
        mlp.MlpOptions,
        1,
        "ftprobe.probes.mlp_run:run",
        ITEMS,
        seeded=True,
        by_layer=True,
        parts=mlp.parts,
        part_runner="ftprobe.probes.mlp_run:run_part",
        work=mlp.work,
    ),
    Probe(
        "neurons",
        neurons.NeuronOptions,
        1,
        "ftprobe.probes.neurons_run:run",
        ("sentence", "pair", "word"),
        seeded=True,
        parts=neurons.parts,
        part_runner="ftprobe.probes.neurons_run:run_part",
        work=neurons.work,
    ),
    Probe(
        "clusters",
        clusters.ClusterOptions,
        1,
        "ftprobe.probes.clusters_run:run",
        ITEMS,
        by_layer=True,
        work=clusters.work,
    ),
)


class _Probes(Mapping[str, Probe]):
    """Kind -> probe. Entry points are looked up on first use: `import ftprobe.probes` reads no other package."""

    @cached_property
    def _known(self) -> dict[str, Probe]:
        known = {probe.kind: probe for probe in BUILT_IN}
        for entry in entry_points(group="ftprobe.probes"):
            probe = entry.load()
            if not isinstance(probe, Probe):
                raise TypeError(f"entry point {entry.name!r} of group ftprobe.probes is no Probe but {probe!r}")
            if probe.kind in known:
                raise ValueError(f"entry point {entry.name!r} of group ftprobe.probes redefines {probe.kind!r}")
            known[probe.kind] = probe
        return known

    def __getitem__(self, kind: str) -> Probe:
        return self._known[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


PROBES: Mapping[str, Probe] = _Probes()
