"""Probe families by name: the built-in ones, those of an installed package, and what stays unimported."""

import subprocess
import sys
from importlib import import_module

import pytest

from ftprobe.probes import BUILT_IN, PROBES, Probe, _Probes

PACKAGE = """
from ftprobe.probes import Probe
from ftprobe.probes.linear import LinearOptions

nearest = Probe("nearest", LinearOptions, 1, "their_probe:run", ("word",))
again = Probe("linear", LinearOptions, 1, "their_probe:run", ("word",))
other = 7
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a package with one entry point on the path."""

    def install(attribute):
        (tmp_path / "their_probe.py").write_text(PACKAGE)
        info = tmp_path / "their_probe-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-probe\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[ftprobe.probes]\nit = their_probe:{attribute}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "their_probe", raising=False)
        return _Probes()

    return install


@pytest.mark.parametrize("probe", BUILT_IN)
def test_a_built_in_probe_is_found_and_its_runner_exists(probe):
    assert PROBES[probe.kind] is probe
    module, _, function = probe.runner.partition(":")
    assert callable(getattr(import_module(module), function))


def test_a_package_adds_a_probe(installed):
    probes = installed("nearest")
    assert isinstance(probes["nearest"], Probe)
    assert set(probes) == {"nearest", *(probe.kind for probe in BUILT_IN)}


def test_a_package_may_not_redefine_a_probe(installed):
    with pytest.raises(ValueError, match=r"'it' .* redefines 'linear'"):
        installed("again")["linear"]


def test_a_package_that_offers_something_else_is_named(installed):
    with pytest.raises(TypeError, match=r"'it' .* is no Probe but 7"):
        len(installed("other"))


def test_the_registry_is_light():
    code = "import sys, ftprobe.probes; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "sklearn", "ray", "polars", "datasets"} & set(loaded)
