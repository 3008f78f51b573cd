"""Sentence sets generated from a CoNLL-U corpus: bigram shift, coordination inversion, odd man out (METHODS 15).

The three sets are made together: a sentence is in at most one of them, either intact or corrupted, whichever set is
asked for. Everything follows from (seed, corpus). Generated sets never share a table with the SentEval originals.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from ftprobe.hashing import derive_seed
from ftprobe.measurement import Measurement
from ftprobe.tasks.bigram_shift import shifted
from ftprobe.tasks.coordination_inversion import clauses, inverted
from ftprobe.tasks.lines import fingerprint
from ftprobe.tasks.odd_man_out import Vocabulary
from ftprobe.tasks.task import Found, Request
from ftprobe.tasks.treebank import Tree, conllu_files, read_trees
from ftprobe.tasks.types import Corpus, LabelSet, Sentence, Split, TaskData

VERSION = 1
INTACT = "O"
CORRUPTED = {"bigram_shift": "I", "coordination_inversion": "I", "odd_man_out": "C", "odd_man_out_drop": "C"}
LENGTHS = range(5, 29)
SHARES: tuple[tuple[Split, float], ...] = (("train", 0.8), ("dev", 0.1), ("test", 0.1))
FEWEST_DOCUMENTS = 10


class Candidate(NamedTuple):
    """A sentence that a set can use: its position in the corpus and its forms after corruption."""

    at: int
    corrupted: tuple[str, ...]
    backoff: bool = False
    difference: int = 0


class Chosen(NamedTuple):
    """A candidate in its set, intact or corrupted."""

    candidate: Candidate
    corrupt: bool


class SentenceSets(NamedTuple):
    """The sets over one corpus: `sets[name]` in corpus order; `split` of each usable sentence by position."""

    trees: Sequence[Tree]
    split: Mapping[int, Split]
    sets: Mapping[str, tuple[Chosen, ...]]


def find(request: Request) -> Found:
    """The set `request.task` made from the CoNLL-U folder `request.corpus` (see `Task.find`)."""
    folder = request.local(request.corpus)
    if folder is None:
        raise request.absent(request.corpus, hint="generated sets need a CoNLL-U folder")
    files = tuple(conllu_files(folder))
    source = fingerprint([(f"conllu/{number}", path) for number, path in enumerate(files)])
    spec: dict[str, object] = {
        "stage": "corpus",
        "version": VERSION,
        "family": request.task,
        "fingerprint": source,
        "seed": request.seed,
    }
    read = partial(generate, request.task, files, source, request.corpus, seed=request.seed)
    return Found(f"{request.task}@{request.corpus}", spec, None, read)


def generate(task: str, files: tuple[Path, ...], source: str, corpus: str, *, seed: int) -> TaskData:
    """Read the files and make one set; its counts by split are its `measurements`.

    Parameters
    ----------
    task : str
        `bigram_shift`, `coordination_inversion`, `odd_man_out` (backoff: rank) or `odd_man_out_drop`.
    files, source, corpus
        The CoNLL-U files, the fingerprint of their content, and the name of the corpus.
    seed : int
        Decides splits, targets, and which sentences are corrupted.
    """
    made = _made(files, source, seed)
    sentences: list[Sentence] = []
    labels: list[str] = []
    for split, _ in SHARES:
        for candidate, corrupt in made.sets[task]:
            if made.split[candidate.at] != split:
                continue
            tree = made.trees[candidate.at]
            words = candidate.corrupted if corrupt else _forms(tree)
            sentences.append(Sentence(tree.id, split, " ".join(words), None, words, tree.document))
            labels.append(CORRUPTED[task] if corrupt else INTACT)
    items = range(len(labels))
    label_set = LabelSet(task, tuple(items), (-1,) * len(labels), tuple(labels))
    name = f"{task}@{corpus}"
    return TaskData(Corpus(name, tuple(sentences)), label_set, tuple(_counts(made, task, corpus)))


@lru_cache(maxsize=1)
def _made(files: tuple[Path, ...], source: str, seed: int) -> SentenceSets:
    """The sets of one corpus; kept, because a study mostly asks for all of them (`source` names the content)."""
    return sentence_sets([tree for path in files for tree in read_trees(path)], seed=seed)


def sentence_sets(trees: Sequence[Tree], *, seed: int) -> SentenceSets:
    """Assign sentences to splits and sets, and within each set and split corrupt half.

    Coordination inversion, which few sentences allow, takes all of its own; the rest is shared evenly by bigram
    shift and odd man out as far as they can use it.
    """
    usable = _usable(trees)
    split = _split(trees, usable, seed)
    taken = {_key(_forms(tree)) for tree in trees}
    inversions = _matched(_fresh(_inversions(trees, usable), taken), split, seed)
    used = {one.candidate.at for one in inversions}
    left = [at for at in usable if at not in used]
    shifts = _fresh(_shifts(trees, left, seed), taken)
    odds = _fresh(_replacements(trees, left, split, seed), taken)
    shift, odd = _shared(shifts, odds, split, seed)
    exact = [candidate for candidate in odd if not candidate.backoff]
    sets = {
        "coordination_inversion": inversions,
        "bigram_shift": _halved(shift, split, seed, "bigram_shift"),
        "odd_man_out": _halved(odd, split, seed, "odd_man_out"),
        "odd_man_out_drop": _halved(exact, split, seed, "odd_man_out_drop"),
    }
    return SentenceSets(trees, split, sets)


def _inversions(trees: Sequence[Tree], usable: Sequence[int]) -> Iterator[Candidate]:
    lower = {word.form for tree in trees for word in tree.words if word.form.islower()}
    for at in usable:
        parts = clauses(trees[at], lower)
        if parts is not None:
            yield Candidate(at, inverted(trees[at], parts), difference=parts.difference)


def _shifts(trees: Sequence[Tree], usable: Sequence[int], seed: int) -> Iterator[Candidate]:
    for at in usable:
        forms = shifted(trees[at], _draw(trees, seed, at, "bigram_shift"))
        if forms is not None:
            yield Candidate(at, forms)


def _replacements(
    trees: Sequence[Tree], usable: Sequence[int], split: Mapping[int, Split], seed: int
) -> Iterator[Candidate]:
    vocabulary = Vocabulary(trees, _training(trees, split))
    for at in usable:
        found = vocabulary.replaced(trees, at, _draw(trees, seed, at, "odd_man_out"))
        if found is not None:
            yield Candidate(at, found.forms, found.backoff)


def _usable(trees: Sequence[Tree]) -> list[int]:
    """Positions of sentences any set may use: METHODS 15, "Common"; of equal texts the first."""
    seen: set[str] = set()
    found = []
    for at, tree in enumerate(trees):
        forms = _forms(tree)
        roots = sum(word.head == 0 for word in tree.words)
        if tree.plain and len(forms) in LENGTHS and roots == 1 and not any(" " in form for form in forms):
            key = _key(forms)
            if key not in seen:
                seen.add(key)
                found.append(at)
    return found


def _split(trees: Sequence[Tree], usable: Sequence[int], seed: int) -> dict[int, Split]:
    """80/10/10 by document, or by sentence where the corpus names fewer than ten documents.

    Documents come in random order; each goes where most is missing, relative to the share.
    """
    documents = {tree.document for tree in trees if tree.document}
    by_document = len(documents) >= FEWEST_DOCUMENTS
    groups: dict[str, list[int]] = defaultdict(list)
    for at in usable:
        groups[trees[at].document if by_document and trees[at].document else f"\n{at}"].append(at)
    order = sorted(groups)
    Random(derive_seed(seed, "data", "documents")).shuffle(order)
    goal = {split: share * len(usable) for split, share in SHARES}
    filled: Counter[Split] = Counter()
    found: dict[int, Split] = {}
    for document in order:
        split = max(goal, key=lambda name: (goal[name] - filled[name]) / goal[name])
        filled[split] += len(groups[document])
        found.update(dict.fromkeys(groups[document], split))
    return found


def _training(trees: Sequence[Tree], split: Mapping[int, Split]) -> set[int]:
    """Where words are counted: all sentences of training documents, and training sentences without a document."""
    elsewhere = {trees[at].document for at, name in split.items() if name != "train"}
    return {
        at
        for at, tree in enumerate(trees)
        if split.get(at) == "train" or (at not in split and tree.document and tree.document not in elsewhere)
    }


def _fresh(candidates: Iterable[Candidate], taken: set[str]) -> dict[int, Candidate]:
    """Candidates by position, without those whose corruption is a text that exists already; adds to `taken`."""
    found = {}
    for candidate in candidates:
        if _key(candidate.corrupted) not in taken:
            taken.add(_key(candidate.corrupted))
            found[candidate.at] = candidate
    return found


def _matched(candidates: Mapping[int, Candidate], split: Mapping[int, Split], seed: int) -> tuple[Chosen, ...]:
    """Coordination inversion: per split the same even number with |C1|-|C2| = d and = -d, half of each corrupted.

    Otherwise the place of the separator, and with it the length of the first clause, would tell the class.
    """
    groups: dict[tuple[Split, int], list[Candidate]] = defaultdict(list)
    for at in sorted(candidates):
        groups[split[at], candidates[at].difference].append(candidates[at])
    chosen: list[Chosen] = []
    for name, difference in sorted(groups):
        mine, mirrored = groups[name, difference], groups.get((name, -difference), [])
        count = min(len(mine), len(mirrored)) // 2 * 2
        rng = Random(derive_seed(seed, "data", "coordination_inversion", name, difference))
        chosen += _half(rng.sample(mine, count), rng)
    return tuple(sorted(chosen))


def _shared(
    shifts: Mapping[int, Candidate], odds: Mapping[int, Candidate], split: Mapping[int, Split], seed: int
) -> tuple[list[Candidate], list[Candidate]]:
    """Give each sentence that two sets can use to one of them, so that each split's two sets are as equal as can be."""
    shift, odd = {at for at in shifts if at not in odds}, {at for at in odds if at not in shifts}
    for name, _ in SHARES:
        both = sorted(at for at in shifts if at in odds and split[at] == name)
        Random(derive_seed(seed, "data", "sets", name)).shuffle(both)
        alone = [sum(split[at] == name for at in one) for one in (shift, odd)]
        to_odd = min(max((alone[0] + len(both) - alone[1]) // 2, 0), len(both))
        odd.update(both[:to_odd])
        shift.update(both[to_odd:])
    return [shifts[at] for at in sorted(shift)], [odds[at] for at in sorted(odd)]


def _halved(candidates: Sequence[Candidate], split: Mapping[int, Split], seed: int, name: str) -> tuple[Chosen, ...]:
    """An even number per split, half of it corrupted."""
    chosen: list[Chosen] = []
    for part, _ in SHARES:
        mine = [candidate for candidate in candidates if split[candidate.at] == part]
        rng = Random(derive_seed(seed, "data", name, part))
        chosen += _half(rng.sample(mine, len(mine) // 2 * 2), rng)
    return tuple(sorted(chosen))


def _half(candidates: Sequence[Candidate], rng: Random) -> list[Chosen]:
    corrupt = [True, False] * (len(candidates) // 2)
    rng.shuffle(corrupt)
    return [Chosen(candidate, flag) for candidate, flag in zip(candidates, corrupt, strict=True)]


def _draw(trees: Sequence[Tree], seed: int, at: int, name: str) -> Random:
    """A generator of its own for each sentence and set."""
    return Random(derive_seed(seed, "data", name, at, trees[at].id))


def _counts(made: SentenceSets, task: str, corpus: str) -> list[Measurement]:
    """`n_sentences`, `n_dropped` and `backoff_share` by split.

    Dropped are sentences that pass the common conditions, serve no other set, and could not be used in this one.
    """
    rivals = [name for name in made.sets if name.removesuffix("_drop") != task.removesuffix("_drop")]
    others = {one.candidate.at for name in rivals for one in made.sets[name]}
    rows: list[Measurement] = []
    for split, _ in SHARES:
        mine = [one for one in made.sets[task] if made.split[one.candidate.at] == split]
        offered = sum(part == split and at not in others for at, part in made.split.items())
        share = sum(one.candidate.backoff for one in mine) / len(mine) if mine else 0.0
        detail = {"source": corpus}
        rows += [
            Measurement("n_sentences", len(mine), "count", split, n_items=len(mine), detail=detail),
            Measurement("n_dropped", offered - len(mine), "count", split, n_items=offered, detail=detail),
            Measurement("backoff_share", share, "fraction", split, n_items=len(mine), detail=detail),
        ]
    return rows


def _forms(tree: Tree) -> tuple[str, ...]:
    return tuple(word.form for word in tree.words)


def _key(forms: Sequence[str]) -> str:
    """What makes two texts the same: their words, ignoring case."""
    return " ".join(forms).lower()
