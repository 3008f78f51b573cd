"""Word tags of CoNLL-U treebanks: UPOS and XPOS of every syntactic word; both tasks share one corpus."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ftprobe.errors import InputError, Problem
from ftprobe.tasks.lines import fingerprint, refuse
from ftprobe.tasks.task import Found, Request, Task
from ftprobe.tasks.treebank import Tree, read_trees, split_files
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

VERSION = 1
HOME = "https://universaldependencies.org"

Files = tuple[tuple[Split, Path], ...]


def find(request: Request) -> Found:
    """The CoNLL-U folder that the study declares for `request.corpus` (see `Task.find`)."""
    if request.corpus == "grammar":
        from ftprobe.tasks import grammar

        return grammar.find(request)
    folder = request.local(request.corpus)
    if folder is None:
        raise request.absent(request.corpus, hint=f"CoNLL-U treebanks are at {HOME}")
    files = tuple(split_files(folder))
    return Found(request.corpus, corpus_spec(files), None, partial(read, request.task, files, request.corpus))


def corpus_spec(files: Files) -> dict[str, object]:
    """What a treebank is: the bytes of its files by split."""
    return {"stage": "corpus", "version": VERSION, "family": "conllu", "fingerprint": fingerprint(files)}


def read(task: str, files: Files, corpus: str) -> TaskData:
    """Parse the files; labels are the tags of all words.

    Raises
    ------
    InputError
        For malformed files (see `treebank.read_trees`) and for words without the tag.
    """
    sentences: list[Sentence] = []
    sentence_N: list[int] = []
    word_N: list[int] = []
    label_N: list[str] = []
    for split, path in files:
        trees = read_trees(path)
        _refuse_untagged(task, trees, path)
        for tree in trees:
            tags = [word.upos if task == "upos" else word.xpos for word in tree.words]
            sentence_N += [len(sentences)] * len(tags)
            word_N += range(len(tags))
            label_N += tags
            words = tuple(word.form for word in tree.words)
            sentences.append(Sentence(tree.id, split, tree.text, None, words, tree.document))
    labels = LabelSet(task, tuple(sentence_N), tuple(word_N), tuple(label_N))
    return TaskData(Corpus(corpus, tuple(sentences)), labels)


def _refuse_untagged(task: str, trees: list[Tree], path: Path) -> None:
    missing = [
        Problem(f"{path}, sentence {tree.id}", f"word {position} ('{word.form}') has no {task}", "fill in the tag")
        for tree in trees
        for position, word in enumerate(tree.words, start=1)
        if (word.upos if task == "upos" else word.xpos) in ("_", "")
    ]
    if missing and len(missing) == sum(len(tree.words) for tree in trees):
        raise InputError.one(str(path), f"no word has {task}", "use the other tag set (upos or xpos)")
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
)
