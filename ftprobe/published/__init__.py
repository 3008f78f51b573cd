"""Published result tables of five papers, transcribed: the numbers that a study's own are printed beside.

Values keep the printed precision; a cell that a paper leaves blank has no row. `number` is null where `unit` is
`text`. Percentages are as printed (0 to 100), unlike the fractions of records.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from ftprobe.errors import InputError, nearest

if TYPE_CHECKING:
    import polars as pl

CITATIONS = {
    "mosbach2020": "Marius Mosbach, Anna Khokhlova, Michael A. Hedderich, and Dietrich Klakow. 2020. On the Interplay "
    "Between Fine-tuning and Sentence-level Probing for Linguistic Knowledge in Pre-trained Transformers. In Findings "
    "of the Association for Computational Linguistics: EMNLP 2020.",
    "merchant2020": "Amil Merchant, Elahe Rahimtoroghi, Ellie Pavlick, and Ian Tenney. 2020. What Happens To BERT "
    "Embeddings During Fine-tuning? In Proceedings of the Third BlackboxNLP Workshop on Analyzing and Interpreting "
    "Neural Networks for NLP.",
    "zhou2022": "Yichu Zhou and Vivek Srikumar. 2022. A Closer Look at How Fine-tuning Changes BERT. In Proceedings of "
    "the 60th Annual Meeting of the Association for Computational Linguistics.",
    "durrani2021": "Nadir Durrani, Hassan Sajjad, and Fahim Dalvi. 2021. How transfer learning impacts linguistic "
    "knowledge in deep NLP models? In Findings of the Association for Computational Linguistics: ACL-IJCNLP 2021.",
    "cai2020": "Jie Cai, Zhengzhou Zhu, Ping Nie, and Qian Liu. 2020. A Pairwise Probe for Understanding BERT "
    "Fine-Tuning on Machine Reading Comprehension. In Proceedings of the 43rd International ACM SIGIR Conference.",
}


def load(paper: str) -> pl.DataFrame:
    """All transcribed tables of one paper, one row a printed cell.

    Parameters
    ----------
    paper : str
        A key of `CITATIONS`.

    Returns
    -------
    polars.DataFrame
        Text columns `table`, `model`, `finetune_task`, `probe_task`, `probe`, `pooling`, `layers`, `condition`,
        `metric`, `value`, `std`, `unit`, `note`, and `number` (float64), the value where it is one. Blank is null.

    Raises
    ------
    InputError
        An unknown paper.

    >>> load("mosbach2020").height
    190
    """
    import polars as pl

    if paper not in CITATIONS:
        raise InputError.one("paper", f"no published tables of '{paper}'", nearest(paper, CITATIONS))
    text = files(__name__).joinpath(f"{paper}.csv").read_bytes()
    frame = pl.read_csv(text, infer_schema=False)
    return frame.with_columns(number=pl.col("value").cast(pl.Float64, strict=False))
