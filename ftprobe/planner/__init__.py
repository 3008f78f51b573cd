"""The plan: a study resolved into trials, each with its id, its parents and its cost.

A trial's id hashes its resolved spec, its parents' ids and its stage's version; where and how it runs is not part of
it. Equal trials of different grid points are one trial with several sets of record columns. Trials of one `group`
may run together: extractions share a forward pass, probes their activations, snapshots the run that passes them.
"""

from ftprobe.planner.make import make_plan as make_plan
from ftprobe.planner.plan import STAGES as STAGES
from ftprobe.planner.plan import VERSIONS as VERSIONS
from ftprobe.planner.plan import Plan as Plan
from ftprobe.planner.plan import Stage as Stage
from ftprobe.planner.plan import Trial as Trial
