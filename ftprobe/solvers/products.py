"""Matrix products whose rows do not depend on the rows beside them, by the fastest library torch has for them.

On a CPU torch gives float32 products to MKL, whose kernels run at less than half speed on cores that are not Intel's;
oneDNN's run at full speed on all. torch reaches them through the operator its own compiler emits for linear layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
_FEWEST_ROWS = 4  # with fewer, both libraries sum in another order
_TILE = 1 if _ONEDNN else 4  # MKL computes the last rows of a product that does not fill its tiles differently


def stacked(parts_CMD: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows of C blocks (C, M, D) below each other, and rows of zeros up to a number that `product` likes."""
    rows_CD = parts_CMD.flatten(0, 1)
    n_rows = max(_FEWEST_ROWS, -(-len(rows_CD) // _TILE) * _TILE)
    stack_RD = parts_CMD.new_zeros(n_rows, parts_CMD.shape[2], dtype=dtype)
    stack_RD[: len(rows_CD)] = rows_CD
    return stack_RD


def product(a_RK: Tensor, b_NK: Tensor) -> Tensor:
    """A B' (R, N). `b_NK` may be a transposed view.

    Equal rows of A give equal rows of the result whatever rows they are stacked with, in stacks of `stacked`.
    """
    if _ONEDNN and a_RK.dtype == torch.float32 and a_RK.device.type == "cpu":
        out_RN: Tensor = torch.ops.mkldnn._linear_pointwise(a_RK, b_NK, None, "none", [], "")
        return out_RN
    return a_RK @ b_NK.mT
