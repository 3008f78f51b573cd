"""Text without labels, which models only read: plain text folders, WikiText-2, CoNLL-U treebanks, the built-in grammar.

A plain text corpus has a sentence for each line that is not blank, the line as it stands; its id `SPLIT-NUMBER` counts
all lines from 1, so that blank ones, which have no text to read, can be put back (`lines`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ftprobe.errors import InputError
from ftprobe.tasks import conllu_words, grammar
from ftprobe.tasks.lines import fingerprint, text_lines
from ftprobe.tasks.questions import NAMES, ORDER
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

VERSION = 1
HUB = "Salesforce/wikitext"
CONFIG = "wikitext-2-v1"
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
SIZES: dict[Split, int] = {"train": 23767, "dev": 2461, "test": 2891}
SUFFIXES = (".txt", ".tokens", ".raw")
_NAMED = re.compile(rf"(?:^|[-_.])({'|'.join(NAMES)})$")
_TITLE = re.compile(r"\s?= (?!=)(.+?) =\s*")
Files = tuple[tuple[Split, Path], ...]


def find(request: Request) -> Found:
    """Local files of `request.corpus` or the grammar, for `wikitext2` else the hub (see `Task.find`)."""
    if request.corpus == "grammar":
        return _of_grammar(request)
    folder = request.local(request.corpus)
    if folder is not None and folder.is_dir() and any(folder.glob("*.conllu")):
        return conllu_words.find(request)
    if folder is not None:
        files = _files(folder)
        return Found(
            request.corpus, _spec(fingerprint(files)), None, partial(read_local, request.task, files, request.corpus)
        )
    if request.offline or request.corpus != "wikitext2":
        raise request.absent(request.corpus, hint="files train.txt, valid.txt and test.txt, or a CoNLL-U treebank")
    return Found("wikitext2", _spec(f"hub:{HUB}@{REVISION}:{CONFIG}"), dict(SIZES), partial(read_hub, request.task))


def _spec(print_: str) -> dict[str, object]:
    return {"stage": "corpus", "version": VERSION, "family": "text", "fingerprint": print_}


def _of_grammar(request: Request) -> Found:
    found = grammar.find(Request("acceptability", "grammar", {}, None, request.seed, request.offline, request.place))
    return found._replace(read=partial(_unlabelled, request.task, found))


def _unlabelled(task: str, found: Found) -> TaskData:
    return TaskData(found.read().corpus, _no_labels(task))


def _no_labels(task: str) -> LabelSet:
    return LabelSet(task, (), (), ())


def _files(folder: Path) -> Files:
    """The text files of a folder by split: `train.txt`, `wiki.valid.tokens`."""
    if not folder.is_dir():
        raise InputError.one(str(folder), "is a file", "give a folder that holds it as train.txt or test.txt")
    present = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    named = [(NAMES[found[1]], file) for file in present if (found := _NAMED.search(file.stem))]
    files = tuple(sorted(named, key=lambda pair: ORDER.index(pair[0])))
    if not files:
        what = f"no text file that its name makes a split (found {', '.join(f.name for f in present) or 'none'})"
        raise InputError.one(str(folder), what, "expected train.txt, valid.txt or test.txt")
    splits = [split for split, _ in files]
    if len(set(splits)) < len(splits):
        raise InputError.one(str(folder), f"two files of one split ({', '.join(f.name for _, f in files)})", "keep one")
    return files


def read_local(task: str, files: Files, corpus: str) -> TaskData:
    """Read the files; `InputError` where one is missing, empty or not UTF-8."""
    return assemble(task, corpus, [(split, text_lines(path)) for split, path in files])


def read_hub(task: str) -> TaskData:
    """Download (or take from the hub's cache) the pinned revision."""
    from datasets import load_dataset

    try:
        data = load_dataset(HUB, CONFIG, revision=REVISION)
    except (OSError, ValueError, RuntimeError) as error:
        repair = "declare 'data: {wikitext2: FOLDER}' to read local files"
        raise InputError.one(HUB, f"cannot be fetched from the hub ({error})", repair) from error
    return from_columns(task, data)


def from_columns(task: str, data: Any) -> TaskData:
    """The text of a `datasets.DatasetDict` with the splits train, validation and test and the column text."""
    names: tuple[tuple[Split, str], ...] = (("train", "train"), ("dev", "validation"), ("test", "test"))
    return assemble(task, "wikitext2", [(split, [t.rstrip("\n") for t in data[name]["text"]]) for split, name in names])


def assemble(task: str, corpus: str, splits: Iterable[tuple[Split, Sequence[str]]]) -> TaskData:
    """The lines of each split that are not blank; a line ` = Title = ` between blank ones begins a document."""
    sentences: list[Sentence] = []
    for split, all_lines in splits:
        document: str = split
        for at, line in enumerate(all_lines):
            title = _TITLE.fullmatch(line)
            if title and _blank(all_lines, at - 1) and _blank(all_lines, at + 1):
                document = f"{split}-{at + 1} {title[1]}"
            if line.strip():
                sentences.append(Sentence(f"{split}-{at + 1}", split, line, document=document))
    return TaskData(Corpus(corpus, tuple(sentences)), _no_labels(task))


def _blank(all_lines: Sequence[str], at: int) -> bool:
    return not 0 <= at < len(all_lines) or not all_lines[at].strip()


TASKS = (
    Task(
        name="text",
        level="text",
        corpus="wikitext2",
        metrics=(),
        find=find,
        description="text without labels: WikiText-2, a folder of plain text, a CoNLL-U treebank, the grammar",
    ),
)
