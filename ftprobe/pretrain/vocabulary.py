"""Vocabulary: a tokenizer trained on the text that a model is pre-trained on.

The same lines give the same tokenizer, in every process: the library's trainer numbers the pieces that begin inside a
word in the order of a hash table, so they are given to it in a fixed order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from ftprobe.pretrain.options import PretrainOptions

UNKNOWN = "<unk>"
"""What stands for a word that a text does not show (WikiText); read as the tokenizer's unknown token."""
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ROBERTA = {
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "bos_token": "<s>",
    "eos_token": "</s>",
}
_RARE = 2  # pieces that occur less often are no part of a vocabulary


def train_tokenizer(lines: Sequence[str], options: PretrainOptions) -> PreTrainedTokenizerFast:
    """WordPiece or byte-level BPE of at most `options.vocab` pieces, learnt from the lines."""
    shown = [line.replace(UNKNOWN, " ") for line in lines]
    special = BERT if options.family == "bert" else ROBERTA
    train = _word_piece if options.family == "bert" else _byte_pairs
    names = list(dict.fromkeys(special.values()))
    return PreTrainedTokenizerFast(
        tokenizer_object=train(shown, names, options),
        model_max_length=options.block,
        model_input_names=["input_ids", "attention_mask"] + ["token_type_ids"] * (options.family == "bert"),
        **special,
    )


def _word_piece(lines: Sequence[str], special: list[str], options: PretrainOptions) -> Tokenizer:
    trained = Tokenizer(WordPiece(unk_token=BERT["unk_token"]))
    trained.normalizer = normalizers.BertNormalizer(lowercase=options.lower_case)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = _letters((trained.normalizer.normalize_str(line) for line in lines), at_most=options.vocab // 4)
    trainer = WordPieceTrainer(
        vocab_size=options.vocab,
        min_frequency=_RARE,
        special_tokens=[*special, *letters, *(f"##{letter}" for letter in letters)],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    trained.train_from_iterator(lines, trainer)
    # Built anew, for the trainer has made every letter a special token.
    tokenizer = Tokenizer(WordPiece(trained.get_vocab(with_added_tokens=False), unk_token=BERT["unk_token"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    end, begin = BERT["sep_token"], BERT["cls_token"]
    tokenizer.post_processor = processors.BertProcessing((end, special.index(end)), (begin, special.index(begin)))
    return tokenizer


def _letters(lines: Iterable[str], *, at_most: int) -> list[str]:
    """The most frequent characters; of equally frequent ones, the first by code point."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    ranked = sorted((letter for letter in counts if not letter.isspace()), key=lambda c: (-counts[c], c))
    return sorted(ranked[:at_most])


def _byte_pairs(lines: Sequence[str], special: list[str], options: PretrainOptions) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    if options.lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=options.vocab,
        min_frequency=_RARE,
        special_tokens=[*special[:-1], AddedToken(special[-1], lstrip=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    end, begin = ROBERTA["sep_token"], ROBERTA["cls_token"]
    ends = (end, special.index(end)), (begin, special.index(begin))
    tokenizer.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
    return tokenizer
