"""CoNLL-U trees against the `conllu` package, and what is not a word."""

from __future__ import annotations

from pathlib import Path

import conllu
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftprobe.errors import InputError
from ftprobe.tasks.treebank import read_trees

ROW = "{}\t{}\t_\tX\t_\t_\t{}\tdep\t_\t{}\n"


def test_trees_are_those_of_the_conllu_package(shared_data: Path) -> None:
    path = shared_data / "ud_ewt" / "en_ewt-ud-test.conllu"
    document = ""
    with path.open(encoding="utf-8") as file:
        reference = list(conllu.parse_incr(file))
    trees = read_trees(path)
    assert len(trees) == len(reference) == 2077
    for tree, other in zip(trees, reference, strict=True):
        document = other.metadata.get("newdoc id", document)
        words = [token for token in other if isinstance(token["id"], int)]
        assert [word.form for word in tree.words] == [token["form"] for token in words]
        assert [word.head for word in tree.words] == [token["head"] for token in words]
        assert [word.deprel for word in tree.words] == [token["deprel"] for token in words]
        assert (tree.id, tree.text, tree.document) == (other.metadata["sent_id"], other.metadata["text"], document)
        assert tree.plain == (len(words) == len(other))


def test_ranges_and_empty_nodes_are_not_words_and_text_comes_from_surface_forms(tmp_path: Path) -> None:
    rows = [
        ("1", "Er", "3", "_"),
        ("2-3", "im", "_", "SpaceAfter=No"),
        ("2", "in", "3", "_"),
        ("3", "dem", "0", "_"),
        ("3.1", "ghost", "_", "_"),
        ("4", "!", "3", "_"),
    ]
    path = tmp_path / "x.conllu"
    path.write_text("".join(ROW.format(*row) for row in rows), "utf-8")
    (tree,) = read_trees(path)
    assert [word.form for word in tree.words] == ["Er", "in", "dem", "!"]
    assert tree.text == "Er im!"
    assert not tree.plain
    assert (tree.id, tree.document) == ("x-0", "")


@given(heads=st.lists(st.integers(0, 7), min_size=1, max_size=7))
def test_exactly_the_trees_are_accepted(heads: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("trees") / "x.conllu"
    path.write_text("".join(ROW.format(i, "w", head, "_") for i, head in enumerate(heads, start=1)) + "\n", "utf-8")

    def reaches_root(node: int) -> bool:
        for _ in heads:
            node = heads[node - 1] if node else 0
        return node == 0

    good = max(heads) <= len(heads) and all(reaches_root(node) for node in range(1, len(heads) + 1))
    if good:
        assert [word.head for word in read_trees(path)[0].words] == heads
    else:
        with pytest.raises(InputError, match="head"):
            read_trees(path)
