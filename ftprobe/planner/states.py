"""Model states: what every probe and comparison reads — checkpoints, models that the study pre-trains, what it tunes.

A state is a base, maybe the weights of a fine-tuning trial, and maybe an edit that is made whenever it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ftprobe.architecture import Architecture
from ftprobe.checkpoint import Checkpoint
from ftprobe.cost import finetune_cost, pretrain_cost, search_cost, snapshot_cost
from ftprobe.depth import depth, moments
from ftprobe.hashing import content_id
from ftprobe.planner.book import Book
from ftprobe.planner.plan import Stage, Trial
from ftprobe.resolution import Resolved, Text
from ftprobe.study import Edit, FinetuneRun, Study
from ftprobe.study.checks import text_reference
from ftprobe.study.finetuning import VARIANTS

NO_EDIT: Mapping[str, Any] = {}


class Base(NamedTuple):
    """A pre-trained model: a checkpoint, or the trial that pre-trains it."""

    alias: str
    checkpoint: Checkpoint
    identity: Mapping[str, Any] | None
    trial: Trial | None

    @property
    def parents(self) -> tuple[str, ...]:
        """The trial that pre-trains it, if one does."""
        return (self.trial.id,) if self.trial else ()


class State(NamedTuple):
    """A model state: a base, or the fine-tuning or search that makes it from one, and what is done when loaded."""

    base: Base
    trial: Trial | None
    task: str | None
    columns: Mapping[str, Any]
    architecture: Architecture
    name: str
    edit: Mapping[str, Any] = NO_EDIT
    moment: bool = False
    """Whether it is one of a run's snapshots, whose update is known when it is there."""

    @property
    def alias(self) -> str:
        """The study's name of its model."""
        return self.base.alias

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the study's other states."""
        return self.alias, self.trial.id if self.trial else "", self.columns["variant"]

    def source(self, *, with_base: bool = False) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What of a trial's spec says how the state is loaded, and the trials whose artifacts that takes.

        `model` is the checkpoint's identity where it is read; `reads` names the stages of the parents, in order, where
        they are not just a fine-tuning trial; `edit` is what is done then. With `with_base` the base is read too.
        """
        tuned = (self.trial.id,) if self.trial else ()
        base = with_base or not self.trial or "replace_top" in self.edit
        own = self.base.parents if base else ()
        spec: dict[str, Any] = {"model": self.base.identity if base else None}
        reads = [*([self.trial.stage] if self.trial else []), *["pretrain"] * len(own)]
        if reads not in ([], ["finetune"]) or (with_base and reads):
            spec["reads"] = reads
        if self.edit:
            spec["edit"] = dict(self.edit)
        return spec, (*tuned, *own)


def where(base: Base, *, offline: bool, moment: bool = False) -> dict[str, Any]:
    """Where a base lies and how it may be read, and whether a snapshot's update has to be looked up; in no id."""
    checkpoint = base.checkpoint
    place = {"location": checkpoint.location, "offline": offline, "trust_remote_code": checkpoint.own_code}
    return {**place, "moment": True} if moment else place


def states_of(study: Study, resolved: Resolved, book: Book, *, offline: bool) -> list[State]:
    """Every state of the study, bases first; the trials that make them are entered in the book."""
    states = [_untuned(study, resolved, book, alias) for alias in resolved.checkpoints]
    bases = {state.alias: state.base for state in states}
    for run, variant in zip(study.finetune, _variants(study.finetune), strict=True):
        states += _Tuning(study, run, bases[run.model], variant, resolved.texts[run.task], offline).states(book)
    return list({state.key: state for state in states}.values())


def _untuned(study: Study, resolved: Resolved, book: Book, alias: str) -> State:
    checkpoint, options = resolved.checkpoints[alias], study.models[alias]
    variant = "pretrained" if options.init == "pretrained" else "randomized"
    identity: dict[str, Any] | None = {**checkpoint.identity, "init": options.init}
    if identity is not None and options.init != "pretrained":
        identity["init_seed"] = study.seed
        if options.init_embeddings != "random":
            identity["init_embeddings"] = options.init_embeddings
    trial = None
    if options.pretrain is not None:
        identity, trial = None, _pretraining(study, resolved, book, alias)
    base = Base(alias, checkpoint, identity, trial)
    columns = {"model": alias, "variant": variant}
    return State(base, None, None, columns, checkpoint.architecture, f"{alias}/{variant}")


def _pretraining(study: Study, resolved: Resolved, book: Book, alias: str) -> Trial:
    options = study.models[alias].pretrain
    assert options is not None
    source, corpus, _, _ = resolved.texts[text_reference(options.text)]
    own = options.training().model_dump(mode="json")
    spec = {"corpus": corpus, "options": own, "seed": options.seed, "study_seed": study.seed}
    columns = {
        "variant": "pretrained",
        "method": "pretrain",
        "task": None,
        "corpus": source.corpus,
        "config": own,
    }
    cost = pretrain_cost(resolved.checkpoints[alias].architecture, own)
    trial = book.trial("pretrain", f"{alias}/pretrain/s{options.seed}", spec, (), None, {}, columns, cost)
    book.label(trial.id, alias, "pretrained")
    return trial


class _Tuning(NamedTuple):
    """One fine-tuning run: the trial that trains, those of its snapshots, and the states they give."""

    study: Study
    run: FinetuneRun
    base: Base
    variant: str
    text: Text
    offline: bool

    def states(self, book: Book) -> Iterator[State]:
        run = self.run
        spec = self._spec()
        suffix = _suffix(_trained(self.variant, run.edit))
        stem = f"{run.model}/{run.task}/{run.options.head_pooling}/s{run.seed}{suffix}"
        architecture = self.base.checkpoint.architecture
        trained = architecture._replace(n_layers=depth(run.options, Edit(), architecture.n_layers))
        cost = finetune_cost(trained, self.text.work, run.largest().options)
        if run.search is not None:
            searched = {**spec, "search": run.search.spec()}
            stem = f"{stem}/search"
            main = self._trial(book, stem, searched, None, search_cost(cost, run.search.size))
        else:
            main = self._trial(book, stem, spec, None, cost)
        yield self._state(main, stem)
        for moment in moments(run, self.text.source.task, self.text.work):
            ((kind, value),) = moment.items()
            at = f"{kind}{value}" if isinstance(value, int) else f"{value[0]}of{value[1]}"
            name = f"{stem}/at-{at}"
            trial = self._trial(book, name, {**spec, "snapshot": moment}, main.id, snapshot_cost(trained))
            yield self._state(trial, name)._replace(moment=True)

    def _spec(self) -> dict[str, Any]:
        source, corpus, labels, _ = self.text
        task, searched = source.task, self.run.search.space if self.run.search else ()
        spec = {
            "model": self.base.identity,
            "corpus": corpus,
            "labels": labels,
            "level": task.level,
            "metrics": list(task.metrics),
            "options": {key: value for key, value in self.run.options.spec().items() if key not in searched},
            "seed": self.run.seed,
            "study_seed": self.study.seed,
        }
        if task.objective != "classify":
            spec["objective"] = task.objective
        if task.positive is not None:
            spec["positive"] = task.positive
        return spec

    def _trial(self, book: Book, name: str, spec: Mapping[str, Any], group: str | None, cost: Any) -> Trial:
        own = {
            **self._columns(),
            "variant": "finetuned",
            "method": "finetune",
            "task": self.text.source.task.name,
            "corpus": self.text.source.corpus,
            "config": {**spec["options"], **({"search": spec["search"]} if "search" in spec else {})},
        }
        stage: Stage = "search" if "search" in spec else "finetune"
        place = where(self.base, offline=self.offline)
        trial = book.trial(stage, name, spec, self.base.parents, group, place, own, cost)
        book.label(trial.id, self.run.model, _trained(self.variant, self.run.edit))
        return trial

    def _columns(self) -> dict[str, Any]:
        name = self.text.source.task.name
        return {"ft_task": name, "ft_seed": self.run.seed, "head_pooling": self.run.options.head_pooling}

    def _state(self, trial: Trial, name: str) -> State:
        run, architecture = self.run, self.base.checkpoint.architecture
        layers = depth(run.options, run.edit, architecture.n_layers)
        columns = {**self._columns(), "model": run.model, "variant": self.variant}
        return State(
            self.base,
            trial,
            run.task,
            columns,
            architecture._replace(n_layers=layers),
            "+".join([name, *run.edit.named()]),
            _edit(run.edit),
        )


def _edit(edit: Edit) -> Mapping[str, Any]:
    spec = edit.spec()
    return NO_EDIT if spec == {"replace_top": 0} else spec  # nothing is replaced: the very same state


def _suffix(variant: str) -> str:
    """What a run's name says of its variant."""
    plain = variant.removeprefix("finetuned")
    return plain if plain.startswith("[") or not plain else f"/{plain}"


def _trained(variant: str, edit: Edit) -> str:
    """The variant of the training itself: without what is done to its state afterwards."""
    done = edit.named()
    name, bracket, rest = variant.partition("[")
    kept = [part for part in name.split("+") if part not in done]
    return ("+".join(kept) or "finetuned") + bracket + rest


def _variants(runs: Sequence[FinetuneRun]) -> list[str]:
    """The variant of each fine-tuning run, and in brackets what else the study varies for its task."""
    values: dict[tuple[str, str], set[object]] = {}
    dumped = [
        (run.task, {**run.options.model_dump(exclude={"head_pooling", *VARIANTS}), **_searched(run)}) for run in runs
    ]
    for task, own in dumped:
        for key, value in own.items():
            values.setdefault((task, key), set()).add(value)
    made = []
    for run, (task, own) in zip(runs, dumped, strict=True):
        varied = [f"{key}={value}" for key, value in own.items() if len(values[task, key]) > 1]
        made.append(run.variant + (f"[{','.join(varied)}]" if varied else ""))
    return made


def _searched(run: FinetuneRun) -> dict[str, str]:
    """What tells the searches of a study apart, and from runs without."""
    spec = run.search.spec() if run.search else None
    return {"search": f"{spec['algorithm']}-{content_id(spec)[:6]}" if spec else "none"}
