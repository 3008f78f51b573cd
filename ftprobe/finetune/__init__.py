"""Fine-tuning: a pre-trained encoder and a task in, a model state and its development scores out (METHODS 1).

Training is transformers' Trainer. On a CPU the result is a function of the options, the data, the seed and the number
of threads, bit for bit, also where a run that was cut short goes on from its last checkpoint; the caller's random
generators are left as they were.
"""

from ftprobe.finetune.checkpoints import Checkpoints as Checkpoints
from ftprobe.finetune.run import Wanted as Wanted
from ftprobe.finetune.run import finetune as finetune
