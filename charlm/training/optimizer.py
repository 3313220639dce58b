"""The update: AdamW, what it decays, and what of it is saved."""

import torch
from torch import Tensor, nn

from charlm.checkpoint.snapshot import OPTIMIZER

BETAS = (0.9, 0.95)


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), which decays the blocks' matrices only.

    Gains, positions and the embedding, whose rows are also the head's, find their own size.
    """
    decayed = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or not name.startswith("blocks.")]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)


def update(optimizer: torch.optim.AdamW, learning_rate: float, good: Tensor) -> None:
    """One update, or none where `good` (a boolean on the device) is False: no weight changes then."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()


def state_of(optimizer: torch.optim.AdamW, model: nn.Module) -> dict[str, Tensor]:
    """What AdamW remembers of each weight, by name; zeros before the first update."""
    return {
        f"{kind}.{name}": optimizer.state[p].get(kind, torch.zeros_like(p))
        for kind in OPTIMIZER
        for name, p in model.named_parameters()
    }


def restore(optimizer: torch.optim.AdamW, model: nn.Module, state: dict[str, Tensor], updates: int) -> None:
    """Put back what `state_of` gave, after that many updates."""
    for name, p in model.named_parameters():
        optimizer.state[p] = {
            "step": torch.tensor(float(updates), device=p.device),
            **{kind: state[f"{kind}.{name}"].to(p.device, copy=True) for kind in OPTIMIZER},
        }
