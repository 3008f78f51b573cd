"""Tokenizers trained on a text: the same in every process, faithful to the text, read back as they were."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from ftprobe.pretrain.options import PretrainOptions, config_of
from ftprobe.pretrain.vocabulary import train_tokenizer

FAMILIES: list[Any] = ["bert", "roberta"]
# Many pieces that are equally frequent: the order in which a trainer meets them shows in their numbers.
ZOO = [" ".join(f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmn" for c in "opqrst")] * 3
PRINT = """
import sys
from ftprobe.pretrain.options import PretrainOptions
from ftprobe.pretrain.vocabulary import train_tokenizer
tokenizer = train_tokenizer(sys.argv[2:], PretrainOptions(family=sys.argv[1], vocab=400))
print(tokenizer.backend_tokenizer.to_str())
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_texts_give_equal_tokenizers_in_every_process(family: Any) -> None:
    def digest(serialised: str) -> str:
        return hashlib.md5(serialised.strip().encode()).hexdigest()

    options = PretrainOptions(family=family, vocab=400)
    own = [digest(train_tokenizer(ZOO, options).backend_tokenizer.to_str()) for _ in range(4)]
    command = [sys.executable, "-c", PRINT, family, *ZOO]
    others = [digest(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(2)]
    assert {*own, *others} == {own[0]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lower_case", [False, True])
def test_a_saved_tokenizer_reads_a_text_as_before(family: Any, lower_case: bool, tmp_path: Path) -> None:
    options = PretrainOptions(family=family, lower_case=lower_case, vocab=300)
    tokenizer = train_tokenizer(["The Café of the Owls", "the café of the owls"], options)
    tokenizer.save_pretrained(tmp_path)
    AutoConfig.for_model(**config_of(options)).save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert dict(read("The café", "of Owls")) == dict(tokenizer("The café", "of Owls"))
    assert read.is_fast
    assert read.model_input_names == tokenizer.model_input_names
    assert (read("The")["input_ids"] == read("the")["input_ids"]) == lower_case
    assert (read.mask_token_id, len(read)) == (tokenizer.mask_token_id, len(tokenizer))


def test_word_pieces_of_frequent_words_are_whole_and_of_unknown_letters_unknown() -> None:
    tokenizer = train_tokenizer(["owl owl fox"] * 5, PretrainOptions(vocab=300))
    assert tokenizer.tokenize("owl fox") == ["owl", "fox"]
    assert tokenizer.tokenize("owls") == ["[UNK]"]
    assert tokenizer("owl", "fox")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_letters_beyond_a_quarter_of_the_vocabulary_are_unknown() -> None:
    rare = "".join(chr(0x4E00 + n) for n in range(200))  # each a word of its own
    tokenizer = train_tokenizer(["a b c"] * 9 + [rare], PretrainOptions(vocab=300))
    assert len(tokenizer) <= 300
    assert tokenizer.tokenize("a") == ["a"]
    assert sum(piece == "[UNK]" for piece in tokenizer.tokenize(rare)) == 200 - (300 // 4 - 3)


def test_byte_pairs_know_every_text() -> None:
    tokenizer = train_tokenizer(["owl owl fox"] * 5, PretrainOptions(family="roberta", vocab=300))
    for shown in ("owl fox", "naïve 猫\tx"):
        assert tokenizer.decode(tokenizer(shown, add_special_tokens=False)["input_ids"]) == shown
    assert tokenizer("owl", "fox")["input_ids"].count(tokenizer.sep_token_id) == 3
