"""What readers say about malformed files: each problem with its file, its line and its repair."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftprobe.errors import InputError
from ftprobe.tasks import glue, locate, trec
from ftprobe.tasks.types import TaskData

COLA = b"gj04\t1\t\tFine.\ngj04\t0\t*\tFine not.\n"
SST2 = b"sentence\tlabel\ngood film \t1\nbad film\t0\n"
RTE = b"index\tsentence1\tsentence2\tlabel\n0\tA b.\tB a.\tentailment\n1\tA c.\tC.\tnot_entailment\n"
TREC = b"HUM:ind Who ?\nNUM:date When ?\n"
SHIFT = b"tr\tO\tWe sing now .\nva\tI\tWe now sing .\nte\tO\tDogs bark .\n"
WORDS = (
    b"# newdoc id = d\n# sent_id = s\n# text = We ran.\n"
    b"1\tWe\twe\tPRON\tPRP\t_\t2\tnsubj\t_\t_\n2\tran\trun\tVERB\tVBD\t_\t0\troot\t_\tSpaceAfter=No\n"
    b"3\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_\n\n"
)
GOOD = {
    "cola": {"train.tsv": COLA, "dev.tsv": COLA},
    "sst2": {"train.tsv": SST2, "dev.tsv": SST2},
    "rte": {"train.tsv": RTE, "dev.tsv": RTE},
    "trec_6": {"train_5500.label": TREC, "TREC_10.label": TREC},
    "bigram_shift": {"bigram_shift.txt": SHIFT},
    "upos": {"x-train.conllu": WORDS, "x-dev.conllu": WORDS, "x-test.conllu": WORDS},
}


def read(task: str, folder: Path, files: dict[str, bytes]) -> TaskData:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return locate(f"{task}@mine", data={"mine": str(folder)}).read()


@pytest.mark.parametrize("task", GOOD)
def test_good_files_are_read(task: str, tmp_path: Path) -> None:
    data = read(task, tmp_path, GOOD[task])
    assert data.corpus.name == "mine"
    assert {s.split for s in data.corpus.sentences} >= {"train", "test"}
    assert all(s.text == s.text.strip() for s in data.corpus.sentences)


# task, file, its content, the line that is blamed (0: the whole file), what is said
BAD = [
    ("cola", "train.tsv", COLA + b"gj04\t1\tFine.\n", 3, "3 tab-separated columns instead of 4"),
    ("cola", "train.tsv", COLA + b"gj04\t2\t\tFine.\n", 3, "unknown label '2'; one of: 0, 1"),
    ("cola", "dev.tsv", COLA + b"gj04\t1\t\t  \n", 3, "empty text"),
    ("cola", "train.tsv", b"gj04\t-1\t\tFine.\n", 1, "unlabelled row"),
    ("cola", "train.tsv", b"", 0, "the file is empty"),
    ("cola", "train.tsv", b" \n\n", 0, "the file is empty"),
    ("cola", "train.tsv", COLA + b"gj04\t1\t\tcaf\xe9\n", 3, "not UTF-8 (byte 0xe9)"),
    ("cola", "train.tsv", COLA + b"\n", 3, "1 tab-separated columns instead of 4"),
    ("sst2", "train.tsv", b"text\tlabel\ngood\t1\n", 1, "the header lacks 'sentence'"),
    ("sst2", "train.tsv", b"sentence\ngood\n", 1, "unlabelled: the header has no column 'label'"),
    ("sst2", "train.tsv", b"sentence\tlabel\n", 0, "no rows below the header"),
    ("sst2", "dev.tsv", SST2 + b"good\tpositive\n", 4, "unknown label 'positive'"),
    ("rte", "dev.tsv", RTE + b"2\tA.\t\tentailment\n", 4, "empty text"),
    ("rte", "train.tsv", RTE + b"2\tA.\tB.\tentailmnt\n", 4, "did you mean 'entailment'?"),
    ("rte", "train.tsv", b"index\tsentence1\tsentence2\n0\tA.\tB.\n", 1, "unlabelled"),
    ("trec_6", "train_5500.label", TREC + b"Who ?\n", 3, "'Who' is not a label; expected COARSE:fine question"),
    ("trec_6", "TREC_10.label", TREC + b"HUMAN:ind Who ?\n", 3, "unknown label 'HUMAN'; one of: ABBR"),
    ("trec_6", "train_5500.label", TREC + b"HUM:ind \n", 3, "empty text"),
    ("trec_6", "train_5500.label", b"", 0, "the file is empty"),
    ("bigram_shift", "bigram_shift.txt", SHIFT + b"train\tO\tA b .\n", 4, "unknown split 'train'; one of: tr, va, te"),
    ("bigram_shift", "bigram_shift.txt", SHIFT + b"tr\tC\tA b .\n", 4, "unknown label 'C'; one of: I, O"),
    ("bigram_shift", "bigram_shift.txt", SHIFT + b"tr\tO A b .\n", 4, "2 tab-separated columns instead of 3"),
    ("bigram_shift", "bigram_shift.txt", SHIFT + b"tr\tO\t\n", 4, "empty text"),
    ("bigram_shift", "bigram_shift.txt", SHIFT[SHIFT.index(b"va") :], 0, "no train split"),
    ("upos", "x-train.conllu", WORDS.replace(b"\tsubj", b"").replace(b"3\t.\t.", b"3 . ."), 6, "columns instead of 10"),
    ("upos", "x-train.conllu", WORDS.replace(b"3\t.", b"4\t."), 6, "word id 4 where 3 was expected"),
    ("upos", "x-train.conllu", WORDS.replace(b"3\t.", b"x\t."), 6, "'x' is not a word id"),
    ("upos", "x-train.conllu", WORDS.replace(b"\tWe\t", b"\t\t"), 4, "empty form"),
    ("upos", "x-train.conllu", WORDS.replace(b"\t2\tpunct", b"\t_\tpunct"), 6, "head '_' is not a number"),
    ("upos", "x-train.conllu", WORDS.replace(b"\t2\tpunct", b"\t9\tpunct"), 6, "head 9 lies outside the sentence"),
    ("upos", "x-train.conllu", WORDS.replace(b"\t0\troot", b"\t1\troot"), 4, "word 1 hangs in a cycle of heads"),
    ("upos", "x-test.conllu", b"# only = comments\n\n", 2, "comments without words"),
    ("upos", "x-test.conllu", b"1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n\n", 1, "a sentence without words"),
    ("upos", "x-test.conllu", b"\n\n\n", 0, "the file is empty"),
    ("upos", "x-dev.conllu", WORDS.replace(b"We ran", b"W\xe9"), 3, "not UTF-8 (byte 0xe9)"),
]


@pytest.mark.parametrize(("task", "name", "content", "line", "said"), BAD)
def test_malformed_files(task: str, name: str, content: bytes, line: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(task, tmp_path, {**GOOD[task], name: content})
    place = tmp_path / name
    assert str(error.value).startswith(f"{place}:{line}: " if line else f"{place}: ")
    assert said in str(error.value)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("task", "missing", "said"),
    [
        ("cola", "train.tsv", "no train split of cola"),
        ("rte", "dev.tsv", "no dev split of rte; expected dev.tsv"),
        ("trec_50", "TREC_10.label", "no test split: no such file"),
        ("upos", "x-train.conllu", "no train split (found x-dev.conllu, x-test.conllu)"),
    ],
)
def test_missing_files(task: str, missing: str, said: str, tmp_path: Path) -> None:
    files = dict(GOOD["trec_6" if task == "trec_50" else task])
    del files[missing]
    with pytest.raises(InputError) as error:
        read(task, tmp_path, files)
    assert said in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_folder_without_treebank_and_one_with_two(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.conllu file in the folder"):
        locate("upos@mine", data={"mine": str(tmp_path)})
    for name in ("a-train.conllu", "b-train.conllu"):
        (tmp_path / name).write_bytes(WORDS)
    with pytest.raises(InputError, match="two train files"):
        locate("upos@mine", data={"mine": str(tmp_path)})


@pytest.mark.parametrize("task", ["cola", "trec_6", "upos"])
def test_a_file_where_a_folder_is_expected(task: str, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes(COLA)
    with pytest.raises(InputError, match="give the folder"):
        locate(f"{task}@mine", data={"mine": str(tmp_path / "train.tsv")})


def test_all_problems_of_a_file_come_at_once_and_twenty_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read("cola", tmp_path, {**GOOD["cola"], "train.tsv": COLA + b"gj04\t9\t\tBad.\n" * 30})
    places = [problem.place for problem in error.value.problems]
    assert places[:20] == [f"{tmp_path / 'train.tsv'}:{line}" for line in range(3, 23)]
    assert error.value.problems[20:][0].what == "10 more problems like these"


def test_every_malformed_sentence_of_a_treebank_is_named(tmp_path: Path) -> None:
    bad = WORDS.replace(b"3\t.", b"4\t.")
    with pytest.raises(InputError) as error:
        read("upos", tmp_path, {**GOOD["upos"], "x-train.conllu": bad + WORDS + bad})
    assert [problem.place.rpartition(":")[2] for problem in error.value.problems] == ["6", "20"]


def test_words_without_the_tag_are_refused(tmp_path: Path) -> None:
    files = {**GOOD["upos"], "x-train.conllu": WORDS.replace(b"PRON", b"_")}
    with pytest.raises(InputError, match=r"word 1 \('We'\) has no upos"):
        read("upos", tmp_path, files)
    files["x-train.conllu"] = WORDS.replace(b"PRP", b"_").replace(b"VBD", b"_").replace(b"PUNCT\t.", b"PUNCT\t_")
    with pytest.raises(InputError, match="no word has xpos; use the other tag set"):
        read("xpos", tmp_path, files)


def test_latin_1_questions_and_utf_8_questions_are_read_alike(tmp_path: Path) -> None:
    line = "HUM:ind Who is Ren\xe9 ?\n"
    for place, encoding in (("latin", "latin-1"), ("utf", "utf-8")):
        files = {"train_5500.label": line.encode(encoding), "TREC_10.label": TREC}
        data = read("trec_50", tmp_path / place, files)
        assert data.corpus.sentences[0].text == "Who is Ren\xe9 ?"
        assert data.labels.label_N[0] == "HUM:ind"


def test_windows_line_ends_and_a_byte_order_mark_are_no_text(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + SST2.replace(b"\n", b"\r\n")
    data = read("sst2", tmp_path, {"train.tsv": content, "dev.tsv": SST2})
    assert [s.text for s in data.corpus.sentences] == ["good film", "bad film"] * 2
    assert data.labels.label_N == ("positive", "negative") * 2


def test_other_line_separators_belong_to_the_text(tmp_path: Path) -> None:
    content = "gj04\t1\t\tOne\u2028line\x85here.\n".encode()
    data = read("cola", tmp_path, {"train.tsv": content, "dev.tsv": COLA})
    assert data.corpus.sentences[0].text == "One\u2028line\x85here."


def test_cola_dev_is_both_domains_in_order(shared_data: Path) -> None:
    data = locate("cola", data={}, data_dir=str(shared_data)).read()
    test = [s.text for s in data.corpus.sentences if s.split == "test"]
    assert len(test) == 527 + 516
    assert test[0] == "The sailors rode the breeze clear of the rocks."
    assert test[527] == "Somebody just left - guess who."
    raw = "".join((shared_data / "cola" / "raw" / f"{name}_domain_dev.tsv").read_text() for name in ("in", "out_of"))
    assert data.labels.label_N[-1043:].count("acceptable") == raw.count("\t1\t") == 719


def test_trec_has_6_and_50_classes_over_one_text(shared_data: Path) -> None:
    coarse, fine = (locate(name, data={}, data_dir=str(shared_data)) for name in ("trec_6", "trec_50"))
    assert coarse.corpus_spec == fine.corpus_spec
    a, b = coarse.read(), fine.read()
    assert a.corpus == b.corpus
    assert (len(set(a.labels.label_N)), len(set(b.labels.label_N))) == (6, 50)
    assert len(set(b.labels.label_N[-500:])) == 42
    assert [s.split for s in a.corpus.sentences].count("train") == 5452
    assert len(a.corpus.sentences) == 5952


def test_senteval_files_are_found_in_each_of_their_places(tmp_path: Path) -> None:
    for place in ("bigram_shift/bigram_shift.txt", "senteval/bigram_shift.txt", "bigram_shift.txt"):
        root = tmp_path / place.replace("/", "-")
        (root / place).parent.mkdir(parents=True)
        (root / place).write_bytes(SHIFT)
        source = locate("bigram_shift", data={}, data_dir=str(root))
        assert source.sizes == {"train": 100_000, "dev": 10_000, "test": 10_000}
        assert source.read().labels.label_N == ("O", "I", "O")
        declared = locate("bigram_shift", data={"bigram_shift": str(root / place)})
        assert declared.corpus_spec == source.corpus_spec
    with pytest.raises(InputError, match="or generate the set: odd_man_out@ud_ewt"):
        locate("odd_man_out", data={}, data_dir=str(tmp_path))


def test_hub_columns_give_what_local_files_give(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["unacceptable", "acceptable"])
    columns = {"sentence": ["Fine. ", "Fine not."], "label": [1, 0], "idx": [0, 1]}
    features = datasets.Features({"sentence": datasets.Value("string"), "label": label, "idx": datasets.Value("int32")})
    part = datasets.Dataset.from_dict(columns, features=features)
    hub = glue.from_columns(glue.LAYOUTS["cola"], datasets.DatasetDict(train=part, validation=part))
    local = read("cola", tmp_path, GOOD["cola"])
    assert hub.corpus.sentences == local.corpus.sentences
    assert hub.labels == local.labels


def test_hub_questions_give_what_local_files_give(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["NUM:date", "HUM:ind"])
    features = datasets.Features({"text": datasets.Value("string"), "fine_label": label})
    part = datasets.Dataset.from_dict({"text": ["Who ?", "When ?"], "fine_label": [1, 0]}, features=features)
    hub = trec.from_columns("trec_6", datasets.DatasetDict(train=part, test=part))
    local = read("trec_6", tmp_path, GOOD["trec_6"])
    assert hub.corpus.sentences == local.corpus.sentences
    assert hub.labels == local.labels
