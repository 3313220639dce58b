"""One step of training: a batch, its loss, the gradient, and the update that comes of it.

Axes: B windows, T symbols.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from charlm.model.language_model import LanguageModel
from charlm.model.masks import documents_of
from charlm.randomness import mix
from charlm.training.device import computing
from charlm.training.optimizer import Rates
from charlm.training.session import Session


def learn(session: Session, rates: Rates) -> tuple[float, float]:
    """Learn from the next batch: its loss in nats a symbol, and the length of its gradient.

    Where either is not finite, no weight changes; that is decided on the device, before.
    """
    config, state = session.training_config, session.state
    end = session.corpus.vocabulary.end
    session.model.zero_grad(set_to_none=True)
    step = state.step + state.batch_offset
    windows = torch.from_numpy(session.windows.batch(session.corpus.train, step)).to(session.device)
    rows: Sequence[Tensor | None] = [None] * config.accumulation
    if session.prior_rows is not None:
        rows = torch.from_numpy(session.prior_rows.batch(step)).to(session.device).chunk(config.accumulation)
    total = torch.zeros((), device=session.device)
    for part, (ids, log_prior) in enumerate(zip(windows.chunk(config.accumulation), rows, strict=True)):
        if session.model_config.dropout or session.model_config.ngram_dropout:
            torch.manual_seed(int(mix(config.seed, step, part) >> 1))
        with computing(session.device, config.precision):
            loss = batch_loss(session.model, ids, log_prior, end) / config.accumulation
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(session.model.parameters(), config.clip)
    session.optimizer.update(rates, torch.isfinite(total) & torch.isfinite(norm))
    return float(total), float(norm)


def batch_loss(
    model: LanguageModel, ids: Tensor, log_prior: Tensor | None = None, end: int | None = None
) -> Tensor:
    """Mean nats of the symbol that follows each of `ids[:, :-1]`, from windows (B, T + 1).

    `log_prior` (B, T, V): what the counts say there, for a model that begins from them. `end`: the id
    across which nothing is read. The softmax is that of 32-bit logits, whatever the products before were
    made of.
    """
    logits = model(ids[:, :-1], docs=documents_of(ids[:, :-1], end), log_prior=log_prior).flatten(
        0, 1
    )  # (B T, V)
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), ids[:, 1:].flatten())
