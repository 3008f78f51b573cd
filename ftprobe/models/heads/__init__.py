"""Heads: what turns the last layer of an encoder into answers (METHODS 1.1); each is a module that holds the encoder.

A head has the transformer as `encoder`, takes a padded batch by name and is written beside the encoder by `save_head`.
"""

from ftprobe.models.heads.classifier import Classifier as Classifier
from ftprobe.models.heads.classifier import Pooled as Pooled
from ftprobe.models.heads.classifier import Pooler as Pooler
from ftprobe.models.heads.parser import Arcs as Arcs
from ftprobe.models.heads.parser import Parser as Parser
from ftprobe.models.heads.parser import Sizes as Sizes
from ftprobe.models.heads.parts import save_head as save_head
from ftprobe.models.heads.parts import set_dropout as set_dropout
from ftprobe.models.heads.span import SpanHead as SpanHead
from ftprobe.models.heads.span import SpanLogits as SpanLogits
from ftprobe.models.heads.words import WordClassifier as WordClassifier
