"""One training step: gradients of the next batch, update of the weights, and compiling both.

Axes: B windows, T symbols, V symbols of the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import nan

import torch
from torch import Tensor

from charlm.errors import ResourceError
from charlm.model.masks import documents_of
from charlm.model.transformer import LanguageModel
from charlm.terminal import one_line
from charlm.training.device import compile_blocks, compile_step, is_accelerator, precision_context
from charlm.training.optimizer import LearningRates
from charlm.training.session import TransformerSession
from charlm.training.sizes import Size

GRAPH_GFLOP = 500
"""Steps of fewer FLOPs, in 10^9, are replayed as CUDA graphs: an estimate of where launching kernels dominates."""


def train_step(session: TransformerSession, rates: LearningRates) -> tuple[Tensor, Tensor]:
    """Take one optimizer step on the next batch; return its loss in nats per symbol and the gradient norm before clipping.

    If either is not finite, no weight changes, which is decided on the device. Raises torch.OutOfMemoryError while
    nothing has changed, ResourceError if memory runs out after that.
    """
    total = compute_gradients(session)
    try:
        return total, session.optimizer.update(
            session.on_device(rates), total, session.training_config.grad_clip
        )
    except torch.OutOfMemoryError:
        raise ResourceError(
            f"step {session.state.step}: the memory of {session.device.type} is full in the optimizer's update; "
            "resume the run when the device is free, or train a smaller model"
        ) from None


def compute_gradients(session: TransformerSession) -> Tensor:
    """Run forward and backward passes over the parts of the next batch; return the loss in nats per symbol."""
    config = session.training_config
    session.optimizer.clear_gradients()
    session.predictor.forget_arrays()  # the weights are about to change
    if session.model.compiled_loss is not None:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    total = torch.zeros((), device=session.device)
    end = session.corpus.vocabulary.end
    batch_size, buckets = session.batch_sampler.batch_size, session.buckets
    for part, (ids, log_prior, soft) in enumerate(session.batches(), 1):
        with session.weights.passing():
            with precision_context(session.device, config.precision):
                loss = batch_loss(session.model, ids, log_prior, end, soft) / (batch_size / len(ids))
            total += loss.detach()
            if buckets is not None and part == session.n_parts:
                buckets.begin(total)
            loss.backward()  # type: ignore[no-untyped-call]
    return session.ranks.all_reduce(total) if buckets is None else buckets.finish()


def batch_loss(
    model: LanguageModel,
    ids: Tensor,
    log_prior: Tensor | None = None,
    end: int | None = None,
    soft: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy in nats per symbol of windows (B, T + 1): each symbol is predicted from those before it.

    `log_prior` (B, T, V): the n-gram prior, for a model that has one. `end`: the id that separates documents,
    across which nothing is read. `soft` (B, T, V): distributions to learn instead of the symbols.
    """
    read = ids[:, :-1]
    return model.loss(read, ids[:, 1:] if soft is None else soft, documents_of(read, end), log_prior)


def compile_model(session: TransformerSession) -> str | None:
    """Compile the model's blocks, on a GPU the whole step, by a trial that changes no weight.

    Returns the reason if that fails.
    """
    config, model = session.training_config, session.model
    if is_accelerator(session.device):
        size = Size.of(session.model_config, config)
        graphs = session.device.type == "cuda" and config.grad_accum == 1 and size.gflop < GRAPH_GFLOP
        graphs = graphs and not session.ranks.is_distributed  # ranks send gradients during the step
        return compile_step(model, session.optimizer, partial(idle_step, session), graphs=graphs)
    assert config.batch_size
    ids = torch.zeros(config.batch_size // config.grad_accum, model.block_size + 1, dtype=torch.long)

    def trial_loss() -> Tensor:
        with precision_context(session.device, config.precision):
            return batch_loss(model, ids.to(session.device), end=session.corpus.vocabulary.end)

    return compile_blocks(model, trial_loss)


def idle_step(session: TransformerSession) -> None:
    """Compute a step with a loss of NaN, so that it changes nothing."""
    total = compute_gradients(session) * nan
    rates = session.on_device(session.learning_rates())
    session.optimizer.update(rates, total, session.training_config.grad_clip)


@contextmanager
def gpu_errors(session: TransformerSession) -> Iterator[None]:
    """Raise ResourceError if a GPU fails, which torch reports when results are read; OutOfMemoryError passes through."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not is_accelerator(session.device):
            raise
        raise ResourceError(
            f"the GPU failed at step {session.state.step} ({one_line(str(error), limit=160)}); the last checkpoint is "
            "intact: resume the run"
        ) from None
