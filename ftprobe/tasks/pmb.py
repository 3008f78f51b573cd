"""Semantic tags of the Parallel Meaning Bank, as its layers are extracted by RikVN/DRS_parsing.

A file names its columns in the comment with the command that made it (`-ls tok:g sym:g sem:g ...`); the token's form
comes before them. A sentence begins with `# raw sent = TEXT`; a document (`# newdoc id = ID`) has one or more. The
bank joins the words of one token by `~` (`Charles~de~Gaulle`): here they are one word with spaces, as in the text. Its
placeholder `ø`, which the English gold files never have, stands for no word of the text and is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from sys import intern
from typing import NamedTuple

from ftprobe.errors import InputError, Problem
from ftprobe.tasks.lines import local_files, refuse, text_lines
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Sentence, Split, TaskData
from ftprobe.tasks.words import Labelled, assemble, found_files

VERSION = 1
HOME = "https://github.com/RikVN/DRS_parsing (parsing/layer_data/4.0.0/en/gold)"
FILES: tuple[tuple[Split, str], ...] = (("train", "train.conll"), ("dev", "dev.conll"), ("test", "test.conll"))
LAYER = "sem"


class Block(NamedTuple):
    """One sentence: the line of its text, its document, its text, its words, and their tags."""

    line: int
    document: str
    text: str
    words: list[str]
    tags: list[str]


def find(request: Request) -> Found:
    """The folder of train.conll, dev.conll and test.conll (see `Task.find`)."""
    folder = request.local(request.corpus)
    if folder is None:
        raise request.absent(request.corpus, hint=f"its files train.conll, dev.conll and test.conll are at {HOME}")
    files = local_files(folder, FILES)
    return found_files(request, files, read, family="pmb", version=VERSION)


def read(task: str, files: tuple[tuple[Split, Path], ...], corpus: str) -> TaskData:
    """Parse the files; labels are the semantic tags of all words.

    Raises
    ------
    InputError
        With file and line: no comment that names the columns, a wrong number of them, an empty word or tag, a
        placeholder, a word outside a sentence, a sentence without words or document.
    """
    return assemble(task, corpus, _labelled(files))


def _labelled(files: tuple[tuple[Split, Path], ...]) -> Iterator[Labelled]:
    for split, path in files:
        seen: Counter[str] = Counter()
        for block in _blocks(path):
            seen[block.document] += 1
            key = f"{block.document}-{seen[block.document]}"
            words = tuple(block.words)
            yield Labelled(Sentence(key, split, block.text, None, words, block.document), range(len(words)), block.tags)


def _columns(lines: list[str], path: Path) -> list[str]:
    """The names of the columns: the form, then the layers of the command's option -ls."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if line.startswith("###") and "-ls" in words:
            layers = list(takewhile(lambda word: not word.startswith("-"), words[words.index("-ls") + 1 :]))
            names = ["form", *(layer.partition(":")[0] for layer in layers)]
            if LAYER not in names:
                what = f"the layers of -ls ({', '.join(names[1:])}) lack '{LAYER}'"
                raise InputError.one(f"{path}:{number}", what, f"extract the layer {LAYER} too, or fetch {HOME}")
            return names
    what = "no comment '### ... -ls LAYERS' names the columns"
    raise InputError.one(str(path), what, f"restore it, or fetch the file from {HOME}")


def _blocks(path: Path) -> list[Block]:
    lines = text_lines(path)
    names = _columns(lines, path)
    problems: list[Problem] = []
    blocks: list[Block] = []
    document, inside = "", False
    for number, line in enumerate(lines, start=1):
        if line.startswith(("# ", "###")):
            key, _, value = line.partition("=")
            if key.strip() == "# newdoc id":
                document, inside = value.strip(), False
            elif key.strip() == "# raw sent":
                blocks.append(Block(number, document, value.strip(), [], []))
                inside = True
        elif line == "":
            inside = False
        else:
            cells = line.split("\t")
            what = _problem(cells, names, inside=inside)
            if what:
                problems.append(Problem(f"{path}:{number}", *what))
            else:
                blocks[-1].words.append(intern(cells[0].replace("~", " ").strip()))
                blocks[-1].tags.append(intern(cells[names.index(LAYER)]))
    refuse(problems or _block_problems(blocks, path), path)
    return blocks


def _problem(cells: list[str], names: list[str], *, inside: bool) -> tuple[str, str] | None:
    """What is wrong with one row, and the repair."""
    if len(cells) != len(names):
        return f"{len(cells)} tab-separated columns instead of {len(names)}", f"expected {', '.join(names)}"
    if not cells[0].replace("~", " ").strip():
        return "empty form", "fill in column 1"
    if cells[0] == "ø":
        return "'ø' stands for no word of the text", "remove the row"
    if cells[names.index(LAYER)].strip() in ("", "_"):
        return f"word '{cells[0]}' has no semantic tag", f"fill in column {names.index(LAYER) + 1}"
    if not inside:
        return f"word '{cells[0]}' is in no sentence", "write '# raw sent = TEXT' before its first word"
    return None


def _block_problems(blocks: list[Block], path: Path) -> list[Problem]:
    """Sentences without words, text or document."""
    problems = []
    for block in blocks:
        if not block.words or not block.text:
            what, repair = "a sentence without " + ("text" if block.words else "words"), "remove it or fill it in"
            problems.append(Problem(f"{path}:{block.line}", what, repair))
        elif not block.document:
            what = "a sentence of no document"
            problems.append(Problem(f"{path}:{block.line}", what, "write '# newdoc id = ID' before it"))
    return problems


TASKS = (
    Task(
        name="sem",
        level="word",
        corpus="pmb4_en",
        metrics=("accuracy",),
        find=find,
        description="semantic tag of each word (Parallel Meaning Bank 4.0.0, Abzianidze et al. 2017)",
    ),
)
