"""STREUSLE's prepositions and possessives: scene role and function of each that is a word of its own (METHODS 1.2).

CoNLL-U-Lex is CoNLL-U with nine more columns. An item is a single-token unit (column SMWE is `_`) whose supersense
begins with `p.`; role = SS, function = SS2. Every word of a sentence is in the corpus, also of those without an item.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ftprobe.tasks.lines import local_files
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.treebank import COLUMNS, Layout, Word, read_trees, sentence
from ftprobe.tasks.types import Split, TaskData
from ftprobe.tasks.words import Labelled, assemble, found_files

VERSION = 1
HOME = "https://github.com/nert-nlp/streusle"
FILES: tuple[tuple[Split, str], ...] = (
    ("train", "streusle.ud_train.conllulex"),
    ("dev", "streusle.ud_dev.conllulex"),
    ("test", "streusle.ud_test.conllulex"),
)
LEXICAL = ("SMWE", "LEXCAT", "LEXLEMMA", "SS", "SS2", "WMWE", "WCAT", "WLEMMA", "LEXTAG")
SMWE, SS, SS2 = (LEXICAL.index(name) for name in ("SMWE", "SS", "SS2"))
LABEL = {"ps_role": SS, "ps_fxn": SS2}
GROUP = re.compile(r"_|\d+:\d+")


def find(request: Request) -> Found:
    """The folder of STREUSLE's files, flat or by split as in its repository (see `Task.find`)."""
    folder = request.local(request.corpus)
    if folder is None:
        raise request.absent(request.corpus, hint=f"its files train/{FILES[0][1]} ... are at {HOME}")
    names = [(split, f"{split}/{name}" if (folder / split / name).is_file() else name) for split, name in FILES]
    files = local_files(folder, names)
    return found_files(request, files, read, family="streusle", version=VERSION)


def read(task: str, files: tuple[tuple[Split, Path], ...], corpus: str) -> TaskData:
    """Parse the files.

    Raises
    ------
    InputError
        With file and line: what `treebank.read_trees` refuses, an empty lexical column, a malformed SMWE, a role
        without a function or a function without a role.
    """
    return assemble(task, corpus, _labelled(LABEL[task], files))


def _labelled(column: int, files: tuple[tuple[Split, Path], ...]) -> Iterator[Labelled]:
    for split, path in files:
        for tree in read_trees(path, LAYOUT):
            places = [at for at, word in enumerate(tree.words) if _is_item(word)]
            yield Labelled(sentence(tree, split), places, [tree.words[at].further[column] for at in places])


def _is_item(word: Word) -> bool:
    return word.further[SMWE] == "_" and word.further[SS].startswith("p.")


def _problem(cells: list[str]) -> tuple[str, str] | None:
    """What is wrong with the lexical columns of a word, and the repair."""
    lexical = cells[COLUMNS:]
    if "" in lexical:
        return f"empty column {LEXICAL[lexical.index('')]}", "write _ where there is no value"
    if not GROUP.fullmatch(lexical[SMWE]):
        return f"SMWE '{lexical[SMWE]}' is not a place in an expression", "expected _ or GROUP:POSITION such as 1:2"
    role, function = lexical[SS], lexical[SS2]
    if role.startswith("p.") == function.startswith("p."):
        return None
    if role.startswith("p."):
        return f"role '{role}' has no function (SS2 is '{function}')", "fill in column 15"
    return f"function '{function}' has no role (SS is '{role}')", "fill in column 14"


LAYOUT = Layout(COLUMNS + len(LEXICAL), _problem)

TASKS = (
    Task(
        name="ps_role",
        level="word",
        corpus="streusle",
        metrics=("accuracy",),
        find=find,
        description="scene role of single-token prepositions and possessives (STREUSLE, Schneider et al. 2018)",
    ),
    Task(
        name="ps_fxn",
        level="word",
        corpus="streusle",
        metrics=("accuracy",),
        find=find,
        description="function of single-token prepositions and possessives (STREUSLE, Schneider et al. 2018)",
    ),
)
