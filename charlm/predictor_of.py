"""The predictor of a checkpoint, whatever was trained: the one place that knows which kinds there are."""

from ctypes import CDLL

import torch

from charlm.checkpoint.snapshot import Snapshot
from charlm.counts_predictor import CountsPredictor
from charlm.predictor import Predictor, TransformerPredictor


def predictor_of(
    snapshot: Snapshot, library: CDLL | None = None, device: torch.device | None = None
) -> Predictor:
    """What a checkpoint predicts with; a transformer on that device, by default the CPU.

    With the `library` of charlm/compiled.py it reads single characters faster. Raises
    CheckpointError where the counts are damaged.
    """
    if snapshot.model_config.counts_alone:
        counts = snapshot.kneser_ney()
        assert counts is not None, "a checkpoint is not read without the counts that it is made of"
        return CountsPredictor(counts, snapshot.vocabulary)
    predictor = TransformerPredictor.of(snapshot, library)
    predictor.model.to(device)
    return predictor
