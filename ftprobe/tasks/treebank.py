"""Trees of CoNLL-U files, read strictly: every malformed line is named with its file and line.

Multiword ranges (`3-4`) and empty nodes (`3.1`) are not words; a tree only remembers that it had some. A `Layout`
describes the columns of formats that extend CoNLL-U, as CoNLL-U-Lex does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from sys import intern
from typing import NamedTuple

from ftprobe.errors import InputError, Problem
from ftprobe.tasks.lines import refuse, text_lines
from ftprobe.tasks.types import Sentence, Split

COLUMNS = 10
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
RANGE = re.compile(r"[1-9]\d*-[1-9]\d*")
EMPTY = re.compile(r"\d+\.[1-9]\d*")


class Word(NamedTuple):
    """One syntactic word; `head` counts words from 1, 0 is the root; `further` are the columns after the tenth."""

    form: str
    lemma: str
    upos: str
    xpos: str
    feats: str
    head: int
    deprel: str
    further: tuple[str, ...] = ()


class Tree(NamedTuple):
    """One sentence. `plain` = neither multiword ranges nor empty nodes; `document` is '' if the file names none."""

    id: str
    document: str
    text: str
    words: tuple[Word, ...]
    plain: bool


class Layout(NamedTuple):
    """The columns of a file; `problem` says what is wrong with those of a word after the tenth, and the repair."""

    columns: int = COLUMNS
    problem: Callable[[list[str]], tuple[str, str] | None] | None = None


CONLLU = Layout()


class _Block(NamedTuple):
    """The lines of one sentence while its file is read."""

    comments: list[str]
    rows: list[tuple[int, list[str]]]


def read_trees(path: Path, layout: Layout = CONLLU) -> list[Tree]:
    """The trees of one file in order.

    Raises
    ------
    InputError
        With file and line: a wrong number of columns, an empty form, word ids that are not 1, 2, 3, ..., a head
        that is not a word of the sentence, a head cycle or no root, and the layout's own problems; at most 20 listed.
    """
    problems: list[Problem] = []
    trees: list[Tree] = []
    document = ""
    block = _Block([], [])
    for number, line in enumerate([*text_lines(path), ""], start=1):
        if line == "" or line == "\r":
            if block.rows:
                trees.append(_tree(block, document, path, layout, problems, len(trees)))
            elif block.comments:
                problems.append(Problem(f"{path}:{number}", "comments without words", "remove them or add the words"))
            block = _Block([], [])
        elif line[0] == "#":
            if line.startswith("# newdoc"):
                document = _value(line) or f"{path.name}:{number}"
            block.comments.append(line)
        else:
            block.rows.append((number, line.rstrip("\r").split("\t")))
    refuse(problems, path)
    if not trees:
        raise InputError.one(str(path), "no sentence in the file", "fetch it again")
    return trees


def _value(comment: str) -> str:
    return comment.partition("=")[2].strip()


def _tree(block: _Block, document: str, path: Path, layout: Layout, problems: list[Problem], position: int) -> Tree:
    """The tree of one block; what is wrong goes to `problems`."""
    before = len(problems)
    words: list[Word] = []
    lines: list[int] = []
    expected = 1
    for number, cells in block.rows:
        what = _row_problem(cells, str(expected), layout)
        if cells[0].isdecimal():
            expected = int(cells[0]) + 1
        if what:
            problems.append(Problem(f"{path}:{number}", *what))
        elif cells[0].isdecimal():
            form, lemma, upos, xpos, feats, deprel = map(intern, (*cells[1:6], cells[7]))
            further = tuple(map(intern, cells[COLUMNS:]))
            words.append(Word(form, lemma, upos, xpos, feats, int(cells[6]), deprel, further))
            lines.append(number)
    if not words and len(problems) == before:
        problems.append(Problem(f"{path}:{block.rows[0][0]}", "a sentence without words", "remove it or add words"))
    if len(problems) == before:
        problems += _head_problems(words, lines, path)
    named = {key[1:].strip(): value.strip() for key, _, value in (line.partition("=") for line in block.comments)}
    text = named.get("text") or _text(block)
    plain = len(words) == len(block.rows)
    return Tree(named.get("sent_id") or position_id(path, position), document, text, tuple(words), plain)


def position_id(path: Path, position: int) -> str:
    """The id of a sentence without a `# sent_id` comment."""
    return f"{path.stem}-{position}"


def _text(block: _Block) -> str:
    """The text of a sentence without a `# text` comment, from its surface forms and `SpaceAfter=No`."""
    pieces: list[str] = []
    until = 0
    for _, cells in block.rows:
        first, _, last = cells[0].partition("-")
        if len(cells) < COLUMNS or not first.isdecimal() or int(first) <= until:
            continue
        until = int(last) if last else until
        pieces += [cells[1], "" if "SpaceAfter=No" in cells[9].split("|") else " "]
    return "".join(pieces).strip()


def _row_problem(cells: list[str], expected: str, layout: Layout) -> tuple[str, str] | None:
    """What is wrong with one row on its own, and the repair."""
    if len(cells) != layout.columns:
        return f"{len(cells)} tab-separated columns instead of {layout.columns}", "separate the columns by single tabs"
    if cells[0] == expected and cells[1].strip() and cells[6].isdecimal():
        return layout.problem(cells) if layout.problem else None
    if not cells[0].isdecimal():
        if RANGE.fullmatch(cells[0]) or EMPTY.fullmatch(cells[0]):
            return None
        return f"'{cells[0]}' is not a word id", f"expected {expected}, a range such as 3-4, or 3.1"
    if cells[0] != expected:
        return f"word id {cells[0]} where {expected} was expected", "number the words 1, 2, 3, ..."
    if not cells[1].strip():
        return "empty form", "fill in column 2"
    if not cells[6].isdecimal():
        return f"head '{cells[6]}' is not a number", "fill in column 7 (0 = root)"
    return None


def _head_problems(words: list[Word], lines: list[int], path: Path) -> list[Problem]:
    """Heads outside the sentence, and words from which following the heads never reaches the root."""
    count = len(words)
    problems = [
        Problem(f"{path}:{line}", f"head {word.head} lies outside the sentence", f"give a head from 0 to {count}")
        for word, line in zip(words, lines, strict=True)
        if word.head > count
    ]
    if problems or not words:
        return problems
    reaches = [True] + [False] * count
    for start in range(1, count + 1):
        path_: list[int] = []
        node = start
        while not reaches[node] and len(path_) <= count:
            path_.append(node)
            node = words[node - 1].head
        if not reaches[node]:
            what = f"word {start} hangs in a cycle of heads"
            return [Problem(f"{path}:{lines[start - 1]}", what, "give the sentence one tree with a root")]
        for seen in path_:
            reaches[seen] = True
    return []


def sentence(tree: Tree, split: Split) -> Sentence:
    """A tree as a sentence of a corpus."""
    return Sentence(tree.id, split, tree.text, None, tuple(word.form for word in tree.words), tree.document)


def conllu_files(folder: Path) -> list[Path]:
    """The CoNLL-U files of a folder by name.

    Raises
    ------
    InputError
        If there is none.
    """
    if not folder.is_dir():
        raise InputError.one(str(folder), "is not a folder", "give the folder that holds the .conllu files")
    present = sorted(folder.glob("*.conllu"))
    if not present:
        raise InputError.one(str(folder), "no .conllu file in the folder", "give the folder that holds them")
    return present


def named_split(path: Path) -> Split | None:
    """The split that a file's name ends in, if any."""
    return next((split for split in SPLITS if re.search(rf"(^|[-_.]){split}$", path.stem)), None)


def split_files(folder: Path) -> list[tuple[Split, Path]]:
    """The CoNLL-U files of a folder by split: `*-train.conllu` or `train.conllu`, the same for dev and test.

    Raises
    ------
    InputError
        If there is no CoNLL-U file, no train file, or two files for one split.
    """
    present = conllu_files(folder)
    files: list[tuple[Split, Path]] = []
    for split in SPLITS:
        mine = [path for path in present if named_split(path) == split]
        if len(mine) > 1:
            names = ", ".join(path.name for path in mine)
            raise InputError.one(str(folder), f"two {split} files ({names})", "leave one treebank in a folder")
        files += [(split, path) for path in mine]
    if not any(split == "train" for split, _ in files):
        names = ", ".join(path.name for path in present)
        raise InputError.one(str(folder), f"no train split (found {names})", "expected *-train.conllu or train.conllu")
    return files
