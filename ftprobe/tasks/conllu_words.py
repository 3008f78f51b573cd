"""Words of CoNLL-U treebanks: UPOS and XPOS of every syntactic word, dependency relations of word pairs, whole trees.

The tasks share one corpus. A treebank of one file, as UD English PUD, is split 80/20 by sentence (METHODS 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from ftprobe.errors import InputError, Problem
from ftprobe.tasks.lines import fingerprint, refuse
from ftprobe.tasks.sampling import cut_test
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.treebank import Tree, Word, conllu_files, named_split, position_id, read_trees, sentence, split_files
from ftprobe.tasks.types import Split, TaskData
from ftprobe.tasks.words import Labelled, assemble

VERSION = 1
HOME = "https://universaldependencies.org"

ARCS = ("dep", "ud_parsing")
Role = Split | Literal["all"]
Files = tuple[tuple[Role, Path], ...]


def find(request: Request) -> Found:
    """The CoNLL-U folder that the study declares for `request.corpus` (see `Task.find`)."""
    if request.corpus == "grammar":
        return _built_in(request)
    folder = request.local(request.corpus)
    if folder is None:
        raise request.absent(request.corpus, hint=f"CoNLL-U treebanks are at {HOME}")
    files = treebank_files(folder)
    read_files = partial(read, request.task, files, request.corpus)
    return Found(request.corpus, corpus_spec(files), None, read_files, cut=files[0][0] == "all")


def _built_in(request: Request) -> Found:
    from ftprobe.tasks import grammar

    if request.task == "upos":
        return grammar.find(request)
    what = f"no {request.task}" if request.task == "xpos" else "no dependency trees"
    repair = f"write '{request.task}' or '{request.task}@CONLLU_FOLDER'"
    raise InputError.one(request.place, f"the built-in corpus 'grammar' has {what}", repair)


def treebank_files(folder: Path) -> Files:
    """The files of a treebank by split; `all` for its only file, where that is neither a train nor a dev file.

    Raises
    ------
    InputError
        See `treebank.split_files`.
    """
    present = conllu_files(folder)
    if len(present) == 1 and named_split(present[0]) in (None, "test"):
        return (("all", present[0]),)
    return tuple(split_files(folder))


def corpus_spec(files: Files) -> dict[str, object]:
    """What a treebank is: the bytes of its files by split, or of its only file and how it is split."""
    spec: dict[str, object] = {
        "stage": "corpus",
        "version": VERSION,
        "family": "conllu",
        "fingerprint": fingerprint(files),
    }
    return {**spec, "split": "80/20 by sentence"} if files[0][0] == "all" else spec


def read(task: str, files: Files, corpus: str) -> TaskData:
    """Parse the files; items are all words, for `dep` all pairs of a head and its modifier, for `text` none.

    Raises
    ------
    InputError
        For malformed files (see `treebank.read_trees`), for words without the tag, and for a single file whose
        sentences have no ids or are fewer than five.
    """
    return assemble(task, corpus, _labelled(task, files))


def _labelled(task: str, files: Files) -> Iterator[Labelled]:
    for role, path in files:
        trees = read_trees(path)
        _refuse_untagged(task, trees, path)
        for tree, split in zip(trees, _splits(role, trees, path), strict=True):
            places = _items(task, tree.words)
            labels = [_tag(task, tree.words[at]) for at in places]
            heads = [tree.words[at].head - 1 for at in places] if task in ARCS else []
            yield Labelled(sentence(tree, split), places, labels, heads)


def _items(task: str, words: Sequence[Word]) -> Sequence[int]:
    """The words that are items; of word pairs, root arcs have one end only and are dropped (METHODS 2)."""
    if task == "text":
        return ()
    return [at for at, word in enumerate(words) if word.head] if task == "dep" else range(len(words))


def _tag(task: str, word: Word) -> str:
    return word.deprel if task in ARCS else word.upos if task == "upos" else word.xpos


def _splits(role: Role, trees: Sequence[Tree], path: Path) -> list[Split]:
    """The split of each tree of one file."""
    if role != "all":
        return [role] * len(trees)
    nameless = [
        Problem(f"{path}, sentence {position + 1}", "has no sent_id, which decides its split", "add '# sent_id = NAME'")
        for position, tree in enumerate(trees)
        if tree.id == position_id(path, position)
    ]
    refuse(nameless, path)
    test = cut_test(tree.id for tree in trees)
    if not test:
        raise InputError.one(str(path), f"{len(trees)} sentences are too few to split 80/20", "give a train file too")
    return ["test" if tree.id in test else "train" for tree in trees]


def _refuse_untagged(task: str, trees: Sequence[Tree], path: Path) -> None:
    items = [(tree, at) for tree in trees for at in _items(task, tree.words)]
    what = "relation (column 8)" if task in ARCS else task
    missing = [
        Problem(f"{path}, sentence {tree.id}", f"word {at + 1} ('{tree.words[at].form}') has no {what}", "fill it in")
        for tree, at in items
        if _tag(task, tree.words[at]) in ("_", "")
    ]
    if missing and len(missing) == len(items):
        repair = "fill in the relations" if task in ARCS else "use the other tag set (upos or xpos)"
        raise InputError.one(str(path), f"no word has {what}", repair)
    refuse(missing, path)


TASKS = (
    Task(
        name="upos",
        level="word",
        corpus="ud_ewt",
        metrics=("accuracy",),
        find=find,
        description="universal part of speech of each word (CoNLL-U column 4)",
    ),
    Task(
        name="xpos",
        level="word",
        corpus="ud_ewt",
        metrics=("accuracy",),
        find=find,
        description="treebank-specific part of speech of each word (CoNLL-U column 5)",
    ),
    Task(
        name="dep",
        level="word_pair",
        corpus="ud_ewt",
        metrics=("accuracy",),
        find=find,
        description="dependency relation of each word to its head, subtypes kept, roots dropped (CoNLL-U column 8)",
    ),
    Task(
        name="ud_parsing",
        level="tree",
        corpus="ud_ewt",
        metrics=("las", "uas"),
        find=find,
        description="head and relation of every word, punctuation and roots too (CoNLL-U columns 7 and 8)",
    ),
)
