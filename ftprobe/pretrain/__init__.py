"""Pre-training: a small masked language model made from a text, where a study needs one with its own MLM head.

`ftprobe.pretrain.options` is light and says what is made; `ftprobe.pretrain.run` makes it when a trial runs.
"""
