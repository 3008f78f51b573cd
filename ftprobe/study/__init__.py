"""The study file: typed, frozen, unknown keys refused; a list where one value would do is a grid axis.

`load_study` reads a YAML file, `parse_study` a document already read; both report every problem at once.
"""

from ftprobe.study.file import load_study as load_study
from ftprobe.study.finetuning import Edit as Edit
from ftprobe.study.finetuning import FinetuneOptions as FinetuneOptions
from ftprobe.study.finetuning import Snapshots as Snapshots
from ftprobe.study.options import ActivationOptions as ActivationOptions
from ftprobe.study.options import CompareRun as CompareRun
from ftprobe.study.options import FinetuneRun as FinetuneRun
from ftprobe.study.options import ModelOptions as ModelOptions
from ftprobe.study.options import ProbeRun as ProbeRun
from ftprobe.study.options import Resources as Resources
from ftprobe.study.options import Stage as Stage
from ftprobe.study.options import Study as Study
from ftprobe.study.parse import parse_study as parse_study
from ftprobe.study.searching import Search as Search
