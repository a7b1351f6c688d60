"""Losses, as the last node of a file exported from training."""

import torch
from torch import Tensor

from tvm_sched.frontend.onnx.operators.registry import Node, operator


@operator("NegativeLogLikelihoodLoss")
def nll_loss(node: Node, log_probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """- weight[target] log p[target], reduced; `log_probabilities [N, C, ...]`, `target [N, ...]`. The mean is over the
    weights, those of elements that are left out being 0.
    """
    kept = torch.ones_like(target, dtype=torch.bool)
    if node["ignore_index"] is not None:
        kept = target != node["ignore_index"]
    index = target.long().clamp(0, log_probabilities.shape[1] - 1)  # of those left out it may be any number
    share = kept.to(log_probabilities.dtype)
    if weight is not None:
        share = share * weight.index_select(0, index.reshape(-1)).reshape(index.shape)
    loss = -log_probabilities.gather(1, index.unsqueeze(1)).squeeze(1) * share
    if node["reduction"] == "none":
        return loss
    return loss.sum() if node["reduction"] == "sum" else loss.sum() / share.sum()


@operator("SoftmaxCrossEntropyLoss")
def cross_entropy(
    node: Node, scores: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """(the loss of log_softmax(scores), log_softmax(scores))."""
    log_probabilities = torch.log_softmax(scores, 1)
    return nll_loss(node, log_probabilities, target, weight), log_probabilities
