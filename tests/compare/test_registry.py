"""The registry of comparisons: built-in families, their options, and what entry points may add."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from ftprobe.compare import BUILT_IN, COMPARISONS, Comparison, _Comparisons
from ftprobe.compare.attention import AttentionOptions
from ftprobe.compare.perplexity import PerplexityOptions

PACKAGE = """
from ftprobe.compare import Comparison
from ftprobe.compare.attention import AttentionOptions

extra = Comparison("extra", AttentionOptions, 1, "their_comparison:run", "models")
again = Comparison("attention", AttentionOptions, 1, "their_comparison:run", "models")
other = 7
"""


def test_built_in_comparisons_and_what_they_read() -> None:
    found = {kind: (one.reads, one.text, one.seeded) for kind, one in COMPARISONS.items()}
    assert found["attention"] == ("models", "sentences", False)
    assert found["perplexity"] == ("masked_lm", "blocks", True)


def test_the_registry_is_light() -> None:
    code = "import sys, ftprobe.compare as c; len(c.COMPARISONS); print({'torch', 'ray', 'polars'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_defaults_are_those_of_the_methods() -> None:
    attention = AttentionOptions()
    assert (attention.log_base, attention.normalise, attention.direction) == ("e", False, "from")
    assert (attention.ground_distance, COMPARISONS["attention"].items) == ("position", 2000)
    perplexity = PerplexityOptions()
    assert (perplexity.masking, perplexity.block, perplexity.decoder) == ("random15", 512, "pretrained")


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="direktion"):
        AttentionOptions.model_validate({"direktion": "to"})
    with pytest.raises(ValidationError, match="block"):
        PerplexityOptions(block=2)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Mapping[str, Comparison]]:
    """Puts a package with one entry point on the path."""

    def install(attribute: str) -> Mapping[str, Comparison]:
        (tmp_path / "their_comparison.py").write_text(PACKAGE)
        info = tmp_path / "their_comparison-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-comparison\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[ftprobe.comparisons]\nit = their_comparison:{attribute}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "their_comparison", raising=False)
        return _Comparisons()

    return install


def test_a_package_adds_a_comparison(installed: Callable[[str], Mapping[str, Comparison]]) -> None:
    assert set(installed("extra")) == {"extra", *(comparison.kind for comparison in BUILT_IN)}


def test_a_package_may_not_redefine_a_comparison(installed: Callable[[str], Mapping[str, Comparison]]) -> None:
    with pytest.raises(ValueError, match=r"'it' .* redefines 'attention'"):
        installed("again")["attention"]


def test_a_package_that_offers_something_else_is_named(installed: Callable[[str], Mapping[str, Comparison]]) -> None:
    with pytest.raises(TypeError, match=r"'it' .* is no Comparison but 7"):
        len(installed("other"))
