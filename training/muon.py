"""Muon (Jordan et al. 2024) for data-parallel CPU training: momentum whose every update is an orthogonal matrix.

torch.optim.Muon does the same arithmetic on every process. Here the processes share the work, and it is done in the
precision that the machine multiplies fastest.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from training import loop

# Quintic Newton-Schulz coefficients of the reference implementation: steep at zero, close to 1 after five rounds.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrix: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrix with singular values about 1, (m, n) -> (m, n)."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = (x / (x.norm() + 1e-7)).to(loop.matmul_dtype(x.device))
    for _ in range(rounds):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices inside a network. Steps are scaled to AdamW's usual RMS (arXiv:2502.16982): its rates carry over."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            updates = self._orthogonal([self._momentum(p, group["momentum"]) for p in params])
            for p, update in zip(params, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])

    def _momentum(self, p: Tensor, beta: float) -> Tensor:
        """Nesterov's: look ahead by one more step."""
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].mul_(beta).add_(p.grad)
        return p.grad.add(state["momentum"], alpha=beta)

    def _orthogonal(self, matrices: list[Tensor]) -> list[Tensor]:
        """Every process does its share of the matrices and gets the others' by one sum."""
        if not dist.is_initialized():
            return [orthogonalise(m) for m in matrices]
        rank, processes = dist.get_rank(), dist.get_world_size()
        done = [orthogonalise(m) if i % processes == rank else torch.zeros_like(m) for i, m in enumerate(matrices)]
        flat = torch.cat([m.flatten() for m in done])
        dist.all_reduce(flat)
        return [part.view_as(m) for part, m in zip(flat.split([m.numel() for m in matrices]), matrices, strict=True)]
