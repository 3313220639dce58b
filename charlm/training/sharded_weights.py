"""Sharded weights and gradients (FSDP): each rank holds some rows of every weight."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from charlm.checkpoint.snapshot import TABLE, empty_model
from charlm.config import ModelConfig
from charlm.data.tokenizer import Vocabulary
from charlm.inference.predictor import TransformerPredictor
from charlm.model.transformer import initialise_weight
from charlm.ngram.kneser_ney import KneserNey
from charlm.training.distributed import Ranks
from charlm.training.gradient_buckets import GradientBuckets
from charlm.training.model_weights import ModelWeights
from charlm.training.optimizer import Optimizer
from charlm.training.sharded_optimizer import ShardedOptimizer, own_rows_of, part_of
from charlm.training.sharded_predictor import ShardedPredictor


class ShardedWeights(ModelWeights):
    """A model whose blocks hold all of their weights only while they are computed.

    By torch's `fully_shard`: a block's weights are gathered before its forward and backward pass, and each rank gets its
    rows of the summed gradients (Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054; Zhao et al. 2023, FSDP, arXiv
    2304.11277). The table of n-gram embeddings, which has no gradient, stays whole on each rank.
    """

    optimizer_class = ShardedOptimizer

    def __init__(
        self,
        config: ModelConfig,
        n_symbols: int,
        generator: torch.Generator,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """Rank 0 initialises one weight after another, as `initialise` does, and each rank keeps its rows."""
        model = empty_model(config, n_symbols).train()
        super().__init__(model, ranks)
        self._shapes = empty_model(config, n_symbols)
        mesh = init_device_mesh(device.type, (ranks.size,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh, ignored_params={model.ngrams.table} if model.ngrams else None)
        model.__dict__["outputs"] = model.hidden  # a second name, since `loss` calls `hidden` unwrapped
        for method in ("loss", "outputs"):
            register_fsdp_forward_method(model, method)
        assert isinstance(model, FSDPModule)
        self._root, self._outputs = model, model.__dict__["outputs"]
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # each rank weights its gradient by its rows
                module.set_force_sum_reduction_for_comms(True)  # gloo cannot sum with a factor
        model.to_empty(device=device)

        def made(name: str, shape: torch.Size) -> Tensor:
            weight = torch.empty(shape)
            initialise_weight(self._shapes, name, weight, generator)
            return weight

        self._take(made)

    def buckets(self, optimizer: Optimizer) -> GradientBuckets | None:
        """Return None: gradients are summed as they are divided."""

    def passing(self) -> AbstractContextManager[None]:
        """Return a context for a forward and backward pass; raises RankError there if a rank does not answer."""
        return self.ranks.communicating()

    def predictor(self, vocabulary: Vocabulary, prior: KneserNey | None) -> TransformerPredictor:
        """Return a predictor that shares these weights, to be used within `together`."""
        self._predictor = ShardedPredictor(self.model, self._outputs, vocabulary, prior, self.ranks)
        return self._predictor

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let ranks predict inside the block, which all of them enter; at its end each helps the others. Raises RankError."""
        yield
        self._predictor.help()
        self._root.reshard()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the shapes of the weights, on the meta device."""
        return dict(self._shapes.state_dict())

    def gathered(self) -> dict[str, Tensor]:
        """Gather all weights, on all ranks. Raises RankError."""
        with self.ranks.communicating():
            return {name: _whole(weight) for name, weight in self.model.state_dict().items()}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load this rank's rows of rank 0's weights, which rank 0 reads one after another."""
        self._take(lambda name, shape: weights[name])

    @torch.no_grad()
    def _take(self, of: Callable[[str, torch.Size], Tensor]) -> None:
        """Fill this rank's rows from the weights that rank 0 has for each name and shape."""
        rows = own_rows_of(self.model)
        for name, weight in self._shapes.named_parameters():
            made = partial(of, name, weight.shape)
            if name == TABLE:
                self.ranks.broadcast_into(rows[name], made)
            else:
                self.ranks.scatter_into(rows[name], len(weight), made)

    def rows(self) -> dict[str, Tensor]:
        """Return this rank's rows of the weights, as its file has them."""
        return part_of(own_rows_of(self.model), self.ranks)

    def is_finite(self) -> bool:
        """Whether the weights of all ranks are finite. Raises RankError."""
        own = own_rows_of(self.model).values()
        broken = torch.tensor([0.0 if all(bool(torch.isfinite(w).all()) for w in own) else 1.0])
        return not float(self.ranks.all_reduce(broken))


def _whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight.detach().clone()
