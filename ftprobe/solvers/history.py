"""The steps an L-BFGS search remembers, of many problems at once, and the inverse Hessian they imply.

A step s and the change y of the gradient along it are kept in the precision of the data (they steer the search, and
errors in them cost steps, not accuracy); their products are float64.

Axes: A problems, P parameters, H remembered steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class History:
    """`order_AH` lists slots from the oldest step to the newest; an empty slot holds zeros and a product of 1."""

    s_AHP: Tensor
    y_AHP: Tensor
    sy_AHH: Tensor
    order_AH: Tensor

    @classmethod
    def empty(cls, x_AP: Tensor, memory: int, dtype: torch.dtype) -> History:
        """Room for `memory` steps of each problem whose points are `x_AP`."""
        n, width = x_AP.shape
        s_AHP = x_AP.new_zeros(n, memory, width, dtype=dtype)
        sy_AHH = torch.eye(memory, dtype=torch.float64, device=x_AP.device).repeat(n, 1, 1)
        return cls(s_AHP, s_AHP.clone(), sy_AHH, torch.arange(memory, device=x_AP.device).repeat(n, 1))

    def __getitem__(self, rows: Tensor) -> History:
        return History(self.s_AHP[rows], self.y_AHP[rows], self.sy_AHH[rows], self.order_AH[rows])

    def __setitem__(self, rows: Tensor, other: History) -> None:
        for mine, its in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[rows] = its

    def inverse_times(self, g_AP: Tensor, times: Callable[[Tensor], Tensor]) -> Tensor:
        """H g, where H is what `times` applies to sets of vectors (S, A, P), times a factor that fits the newest step,
        updated by every step.

        Both loops of L-BFGS are triangular systems in the products s_i'y_j (i not newer than j), so that this is
        four products with the history (Byrd, Nocedal and Schnabel 1994, section 2).
        """
        order = self.order_AH
        rows = torch.arange(len(order), device=order.device)
        R_AHH = torch.triu(self.sy_AHH[rows[:, None, None], order[:, :, None], order[:, None, :]])
        old_to_new, back = order[:, :, None], torch.argsort(order, dim=1)[:, :, None]
        alpha_AH1 = torch.linalg.solve_triangular(R_AHH, _onto(self.s_AHP, g_AP).gather(1, old_to_new), upper=True)
        q_AP = g_AP - _combined(alpha_AH1.gather(1, back), self.y_AHP)
        newest_AP = self.y_AHP[rows, order[:, -1]].double()
        scaled_2AP = times(torch.stack([q_AP, newest_AP]))
        length_A = (newest_AP * scaled_2AP[1]).sum(1)
        factor_A = torch.where(length_A > 0, R_AHH[:, -1, -1] / length_A, 1.0)
        r_AP = scaled_2AP[0] * factor_A[:, None]
        yr_AH1 = _onto(self.y_AHP, r_AP).gather(1, old_to_new)
        diagonal_AH1 = R_AHH.diagonal(dim1=1, dim2=2)[:, :, None]
        delta_AH1 = torch.linalg.solve_triangular(R_AHH.mT, diagonal_AH1 * alpha_AH1 - yr_AH1, upper=False)
        return r_AP + _combined(delta_AH1.gather(1, back), self.s_AHP)

    def add(self, s_AP: Tensor, y_AP: Tensor, took_A: Tensor) -> None:
        """Put a step of the problems in `took_A` in the place of their oldest; one without curvature is ignored."""
        sy_A = (s_AP * y_AP).sum(1)
        lengths_A = (s_AP.square().sum(1) * y_AP.square().sum(1)).sqrt()
        rows = torch.nonzero(took_A & (sy_A > 1e-12 * lengths_A))[:, 0]
        slot = self.order_AH[rows, 0]
        self.s_AHP[rows, slot] = s_AP[rows].to(self.s_AHP.dtype)
        self.y_AHP[rows, slot] = y_AP[rows].to(self.y_AHP.dtype)
        self.sy_AHH[rows, slot] = 0.0
        self.sy_AHH[rows, :, slot] = _onto(self.s_AHP, y_AP)[rows, :, 0]
        self.order_AH[rows] = self.order_AH[rows].roll(-1, dims=1)

    def shifted(self, change_AP: Tensor) -> History:
        """The steps as they would have been with `change_AP` added to the Hessian's diagonal."""
        y_AHP = self.y_AHP + (change_AP[:, None] * self.s_AHP).to(self.y_AHP.dtype)
        empty_AH = (self.s_AHP == 0).all(2)
        sy_AHH = torch.stack([(s_HP @ y_HP.mT).double() for s_HP, y_HP in zip(self.s_AHP, y_AHP, strict=True)])
        return History(self.s_AHP, y_AHP, sy_AHH + torch.diag_embed(empty_AH.double()), self.order_AH)


def _onto(history_AHP: Tensor, v_AP: Tensor) -> Tensor:
    """Products of a vector with the remembered ones (A, H, 1), float64.

    One at a time on a CPU, where a batched product sums in an order that depends on the size of the batch.
    """
    v_AP = v_AP.to(history_AHP.dtype)
    if history_AHP.is_cuda:
        return torch.bmm(history_AHP, v_AP[:, :, None]).double()
    pairs = zip(history_AHP, v_AP, strict=True)
    return torch.stack([torch.mv(history_HP, v_P) for history_HP, v_P in pairs])[..., None].double()


def _combined(weight_AH1: Tensor, history_AHP: Tensor) -> Tensor:
    """Sums of the remembered vectors (A, P), float64; as `_onto`."""
    weight_AH1 = weight_AH1.to(history_AHP.dtype)
    if history_AHP.is_cuda:
        return torch.bmm(weight_AH1.mT, history_AHP)[:, 0].double()
    pairs = zip(weight_AH1[..., 0], history_AHP, strict=True)
    return torch.stack([torch.mv(history_HP.mT, weight_H) for weight_H, history_HP in pairs]).double()
