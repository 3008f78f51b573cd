"""What a study may ask for: tasks, models and probes that exist and fit together.

Every function returns problems and reads names only; no data or weights are touched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ftprobe import probes, tasks
from ftprobe.compare import COMPARISONS
from ftprobe.errors import Problem
from ftprobe.study.finetuning import ONLY_FOR
from ftprobe.study.grid import Choice, Point, at, point_of, shown, unknown
from ftprobe.study.options import CompareRun, FinetuneRun, ProbeRun

_WORDS, _SENTENCES = ("mean", "first", "last"), ("cls", "mean")
POOLINGS = {"sentence": _SENTENCES, "pair": _SENTENCES, "word": _WORDS, "word_pair": _WORDS}
WINDOWS = {"span": 384, "span_type": 512}
NOUNS = {
    "sentence": "sentences",
    "pair": "sentence pairs",
    "word": "words",
    "word_pair": "pairs of words",
    "question": "questions about passages",
    "tree": "the words of trees",
    "text": "nothing",
}


def finetune_problems(point: Point, models: Collection[str]) -> list[Problem]:
    """Whether the model is one of the study's and the task one that models can be fine-tuned on."""
    problems = [*_model_problems(point, models), *task_problems(point.get("task"))]
    task = _task(point)
    if task is None:
        return problems
    named = f"task {shown(point['task'].value)}"
    if task.objective is None:
        problems.append(Problem(point["task"].place, f"{named} labels nothing", "name a task that has labels"))
    for key, objectives in ONLY_FOR.items():
        if key in point and task.objective not in objectives:
            problems.append(Problem(point[key].place, f"'{key}' means nothing for {named}", "leave it out"))
    pooling, allowed = point.get("head_pooling"), POOLINGS.get(task.level)
    if pooling is not None and allowed and pooling.value not in allowed:
        what = f"head_pooling {shown(pooling.value)} does not fit {named}, which labels {_labels(task)}"
        problems.append(Problem(pooling.place, what, f"one of: {', '.join(allowed)}"))
    cuts = [key for key in ("truncate", "prune_top", "prune_bottom") if key in point and point[key].value is not None]
    if len(cuts) > 1:
        problems.append(Problem(point[cuts[1]].place, f"'{cuts[0]}' cuts the model already", "keep one of the two"))
    if all(key in point and point[key].value is not None for key in ("freeze", "lora_rank")):
        what = "LoRA trains low-rank updates of every block, so none is frozen"
        problems.append(Problem(point["freeze"].place, what, "leave out `freeze` or `lora_rank`"))
    return problems


def task_defaults(point: Point) -> Point:
    """What a fine-tuning takes for its kind of task where neither study nor recipe says.

    A head over words reads the mean of their sub-words; windows of passages are as long as METHODS 1.1 has them.
    """
    task = _task(point)
    if task is None:
        return {}
    place = point["task"].place
    values: Point = {}
    if task.level in ("word", "word_pair"):
        values["head_pooling"] = Choice("mean", place)
    if task.objective in WINDOWS:
        values["max_length"] = Choice(WINDOWS[task.objective], place)
    return values


def probe_problems(point: Point, models: Collection[str], kinds: Sequence[tuple[str, str]]) -> list[Problem]:
    """Whether names are known, and pooling and probe (`kinds`: kind and place) fit the level of the task."""
    problems = [*_model_problems(point, models), *task_problems(point.get("task"))]
    task = _task(point)
    if task is None:
        return problems
    named = f"task {shown(point['task'].value)}, which labels {_labels(task)}"
    poolings = POOLINGS.get(task.level)
    if poolings and "pooling" in point and point["pooling"].value not in poolings:
        what = f"pooling {shown(point['pooling'].value)} does not fit {named}"
        problems.append(Problem(point["pooling"].place, what, f"one of: {', '.join(poolings)}"))
    for kind, place in kinds:
        if task.level not in probes.PROBES[kind].levels or not task.classes:
            problems.append(Problem(place, f"a {kind} probe does not fit {named}"))
    return problems


def pretrained_problems(entry: Mapping[str, object], place: str) -> list[Problem]:
    """Whether an entry about pre-trained states alone says what only fine-tuned ones have."""
    if entry["on"] not in ("pretrained", ["pretrained"]):
        return []
    own = [key for key in ("finetune_task", "variant", "snapshots") if key in entry]
    against = entry.get("against")
    if isinstance(against, Mapping):
        own += [f"against.{key}" for key in against if key != "model"]
    return [Problem(at(place, key), "a pre-trained state has none", "add `on: finetuned`") for key in own]


def compare_problems(point: Point, models: Collection[str], kinds: Sequence[str]) -> list[Problem]:
    """Whether models are the study's, the text one that is known, and the measures ones of any two states if asked."""
    problems = _model_problems(point, models)
    against = point.get("against")
    if against is not None and isinstance(against.value, Mapping):
        problems += _model_problems(point_of(against.value, against.place), models)
        alone = [kind for kind in kinds if not COMPARISONS[kind].pair]
        if alone:
            what = f"{alone[0]} is measured against the pre-trained state alone"
            problems.append(Problem(against.place, what, "leave it out"))
    corpus = point.get("corpus")
    if corpus is not None and isinstance(corpus.value, str):
        problems += task_problems(Choice(text_reference(corpus.value), corpus.place))
    return problems


def text_reference(corpus: str) -> str:
    """The task reference that stands for the text of a corpus: any task on it, else plain text.

    >>> text_reference("cola"), text_reference("ud_ewt"), text_reference("bigram_shift@ud_ewt")
    ('cola', 'dep@ud_ewt', 'bigram_shift@ud_ewt')
    """
    if "@" in corpus or corpus in tasks.TASKS:
        return corpus
    on_it = sorted(tasks.CORPORA.get(corpus, ("text",)))
    return f"{'text' if 'text' in on_it else on_it[0]}@{corpus}"


def task_problems(task: Choice | None) -> list[Problem]:
    """Whether a task reference (`NAME` or `NAME@CORPUS`) names a known task."""
    if task is None or not isinstance(task.value, str):
        return []  # said by its type
    name = task.value.partition("@")[0]
    return [] if name in tasks.TASKS else [unknown("task", name, task.place, tasks.TASKS)]


def corpus_problems(data: Collection[str], references: Collection[str]) -> list[Problem]:
    """Whether each key of `data` is a corpus that a task has by default or that a reference names after its `@`."""
    # One folder may hold all of SentEval's sets.
    named = (name for reference in references for name in reference.partition("@")[2].split("+"))
    known = {"senteval", *tasks.CORPORA, *named} - {""}
    return [unknown("corpus", name, at("data", name), known) for name in data if name not in known]


def unread_states(reading: Sequence[ProbeRun | CompareRun], finetune: Sequence[FinetuneRun]) -> list[Problem]:
    """Probes and measures of fine-tuned states that no `finetune` entry makes."""
    problems = []
    for run in reading:
        if run.on == "finetuned" and not any(map(run.reads, finetune)):
            state = f"{run.model or 'any model'} tuned on {run.finetune_task or 'any task'}"
            state += f", variant {run.variant}" if run.variant else ""
            problems.append(Problem(run.place, f"no `finetune` entry makes the state it reads ({state})"))
    return problems


def _model_problems(point: Point, models: Collection[str]) -> list[Problem]:
    model = point.get("model")
    if model is None or not isinstance(model.value, str) or not models or model.value in models:
        return []
    return [unknown("model", model.value, model.place, list(models))]


def _task(point: Mapping[str, Choice]) -> tasks.Task | None:
    """The point's task; None when it is missing or unknown."""
    task = point.get("task")
    name = str(task.value).partition("@")[0] if task else ""
    return tasks.TASKS.get(name)


def _labels(task: tasks.Task) -> str:
    return NOUNS[task.level] + (" with numbers" if task.objective == "regress" else "")
