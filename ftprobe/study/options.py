"""The study: what one YAML file asks for, as frozen values with every default filled in.

Grids are already expanded here: a run is one point of a grid, and `place` says which entry of the file it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field, field_validator, model_validator

from ftprobe.pretrain.options import PretrainOptions
from ftprobe.study.finetuning import Edit, FinetuneOptions, Snapshots
from ftprobe.study.searching import Search
from ftprobe.study.values import Count, Index, Name, Options, Positive, Share

Stage = Literal["pretrain", "finetune", "search", "activations", "probe", "compare"]
State = Literal["pretrained", "finetuned"]
Layers = Literal["all"] | tuple[int, ...]
Tracker = Literal["tensorboard", "mlflow", "wandb"]


class Pretrain(PretrainOptions):
    """A masked language model that the study itself trains from nothing."""

    text: str
    """The corpus whose train split it reads (dev where it has none), as a comparison names one: `wikitext2`."""
    seed: Index = 0

    def training(self) -> PretrainOptions:
        """The options of the training itself."""
        return PretrainOptions(**{name: getattr(self, name) for name in PretrainOptions.model_fields})


class ModelOptions(Options):
    """One pre-trained checkpoint, or a model that the study pre-trains, and the name the study calls it by."""

    alias: Name
    """The study's own name of the model; it stands in records and tables."""
    checkpoint: str = ""
    """`org/name` on the Hugging Face hub, a local folder, or `package:NAME/FOLDER` inside an installed package."""
    pretrain: Pretrain | None = None
    """In place of a checkpoint: how the study makes one."""
    revision: str | None = None
    """The commit of a hub checkpoint (40 hexadecimal digits); required there, meaningless elsewhere."""
    init: Literal["pretrained", "random", "shuffled"] = "pretrained"
    """`random` draws every parameter anew by the architecture's initialiser (Merchant et al. 2020, Table 1), `shuffled`
    permutes the entries inside each."""
    init_embeddings: Literal["random", "pretrained"] = "random"
    """Whether a model that is not pre-trained keeps the pre-trained embeddings."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the checkpoint and that its `auto_map` names. Without, transformers' own
    architecture is used where it has the checkpoint's, and what needs code of its own is refused."""


class ActivationOptions(Options):
    """How hidden states are read out of a model and pooled to items (METHODS 2)."""

    pooling: Literal["cls", "mean", "first", "last"] = "mean"
    """Sentences: `cls` or `mean`; words: `first`, `last` or `mean` over their sub-words."""
    special: Literal["exclude", "include"] = "exclude"
    """Whether the mean over a sentence counts special tokens."""
    max_length: Annotated[int, Field(ge=4)] = 128
    overflow: Literal["truncate", "error"] = "truncate"
    dtype: Literal["float16", "float32"] = "float16"
    train_items: Count | None = None
    dev_items: Count | None = None
    test_items: Count | None = None


class Resources(Options):
    """What one trial of a stage asks of the machine; null leaves it to the sweep."""

    cpu: Positive | None = None
    gpu: Share | None = None
    memory_gb: Positive | None = None
    max_concurrent: Count | None = None
    """At most this many trials of the stage at once; no limit but the machine's when null."""


class ProbeEntry(ActivationOptions):
    """One point of a `probe` entry, its probe's own options apart."""

    task: str
    on: State
    model: str | None = None
    """Only the states of this model (alias); of every model when null."""
    finetune_task: str | None = None
    """Only the states tuned on this task; on every task when null."""
    variant: str | None = None
    """Only the states of this variant, by its name in records (`finetuned`, `freeze_3`); of every one when null."""
    snapshots: bool = True
    """Whether the states that a run kept on the way are probed too, or its last one alone."""
    layers: Layers = "all"
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: Layers) -> Layers:
        if layers != "all" and (not layers or min(layers) < 0):
            raise ValueError("layers are counted from 0, the embedding output")
        return "all" if layers == "all" else tuple(sorted(set(layers)))


class Against(Options):
    """Another state of the study: that which differs from the measured one in what is said here, and in nothing else.

    At least one of these is given.
    """

    model: str | None = None
    finetune_task: str | None = None
    variant: str | None = None
    """By its name in records, without what stands there in brackets."""
    seed: Index | None = None
    """Of the fine-tuning."""
    moment: Literal["start", "end"] | None = None
    """Of a run with snapshots: that of update 0, or the state it ends with."""

    @model_validator(mode="after")
    def _some(self) -> Against:
        if not self.named():
            raise ValueError("say in what the other state differs: model, finetune_task, variant, seed or moment")
        return self

    def named(self) -> dict[str, str | int]:
        """What is said."""
        return self.model_dump(exclude_none=True)


class CompareEntry(Options):
    """One point of a `compare` entry, its measure's own options apart."""

    corpus: str
    """The text: a corpus (`wikitext2`, `cola`) or a task on one (`bigram_shift@ud_ewt`)."""
    on: State
    model: str | None = None
    finetune_task: str | None = None
    variant: str | None = None
    """Only the states of this variant, as of a probe."""
    split: Literal["train", "dev", "test", "all"] = "test"
    items: Count | None = None
    """At most so many texts of the split, sampled once; when null 2,000 for `attention`, else all."""
    domain: Literal["in", "out"] | None = None
    """What the text is to the states that are measured, for tables (Merchant et al. 2020, section 6). When null,
    `similarity` calls the corpus that a state was tuned on `in`, every other one `out`."""
    against: Against | None = None
    """The other state that `similarity` compares with; the pre-trained one when null."""
    seed: Annotated[int, Field(ge=0)] = 0


class FinetuneEntry(FinetuneOptions, Edit):
    """One point of a `finetune` entry, its recipe already filled in."""

    model: str
    task: str
    seed: Annotated[int, Field(ge=0)] = 0
    snapshots: Snapshots | None = None
    """Which states on the way are kept; none when null."""


class StudyHead(Options):
    """The keys of a study that are neither models nor grids."""

    name: Name
    report: str | None = None
    paper: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    track: tuple[Tracker, ...] = ()
    """Where running trials log what they report, beside the store."""

    @field_validator("track", mode="before")
    @classmethod
    def _several(cls, track: object) -> object:
        return (track,) if isinstance(track, str) else track


class FinetuneRun(NamedTuple):
    """One model to fine-tune on one task with one seed, what is then done to its states, and which are kept."""

    model: str
    task: str
    seed: int
    options: FinetuneOptions
    place: str
    edit: Edit = Edit()
    snapshots: Snapshots | None = None
    search: Search | None = None
    """How some of its options are chosen; those in `options` are their defaults then."""

    def largest(self) -> FinetuneRun:
        """The run with every searched number at its largest: what may be asked of its model at most."""
        return self if self.search is None else self._replace(options=self.search.largest(self.options))

    @property
    def variant(self) -> str:
        """What records call its state, by the names of METHODS 1.3 (`freeze_3`, `replace_top_2`), else `finetuned`."""
        return "+".join([*self.options.named(), *self.edit.named()]) or "finetuned"


@dataclass(frozen=True)
class ProbeRun:
    """One probe on one task, to be run on the pre-trained or on the matching fine-tuned states."""

    on: State
    model: str | None
    """Alias; None stands for every model."""
    finetune_task: str | None
    """Which tuned states: those tuned on this task; None stands for all, and for the pre-trained state."""
    variant: str | None
    """Which of them: those of this variant; None stands for all."""
    task: str
    activation: ActivationOptions
    layers: Layers
    kind: str
    options: BaseModel
    seed: int
    place: str
    snapshots: bool = True
    """Whether it is run on the states on the way too."""

    def reads(self, run: FinetuneRun) -> bool:
        """Whether this probe is run on the state that `run` makes."""
        return self.on == "finetuned" and _matches(self, run)


@dataclass(frozen=True)
class CompareRun:
    """One measure on one text, to be taken of the pre-trained or of the matching fine-tuned states."""

    on: State
    model: str | None
    finetune_task: str | None
    variant: str | None
    corpus: str
    """A task reference whose text it is."""
    split: str
    items: int | None
    domain: str | None
    against: Against | None
    kind: str
    options: BaseModel
    seed: int
    place: str

    def reads(self, run: FinetuneRun) -> bool:
        """Whether this measure is taken of the state that `run` makes."""
        return self.on == "finetuned" and _matches(self, run)


def _matches(reading: ProbeRun | CompareRun, run: FinetuneRun) -> bool:
    asked = (reading.model, reading.finetune_task, reading.variant)
    return all(name in (None, own) for name, own in zip(asked, (run.model, run.task, run.variant), strict=True))


@dataclass(frozen=True)
class Study:
    """Everything one study file asks for, in file order."""

    name: str
    models: dict[str, ModelOptions]
    finetune: tuple[FinetuneRun, ...]
    probe: tuple[ProbeRun, ...]
    compare: tuple[CompareRun, ...] = ()
    report: str | None = None
    """Name of the report that goes with the study."""
    paper: str | None = None
    """The paper it reproduces, as it stands in records."""
    seed: int = 0
    """The seed of all data choices: generated corpora, hold-outs, samples."""
    track: tuple[Tracker, ...] = ()
    data: dict[str, str] = field(default_factory=dict)
    """Where corpora lie: corpus name to folder."""
    resources: dict[Stage, Resources] = field(default_factory=dict)
    path: Path | None = None
