"""Losses, as the last node of a file exported from training."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_sched.frontend.onnx.operators.registry import Node, operator

NO_CLASS = -100  # PyTorch's own label of elements that are left out


@operator("NegativeLogLikelihoodLoss")
def nll_loss(node: Node, log_probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """- weight[target] log p[target], reduced; `log_probabilities [N, C, ...]`, `target [N, ...]`."""
    ignored = NO_CLASS if node["ignore_index"] is None else node["ignore_index"]
    return F.nll_loss(log_probabilities, target.long(), weight, ignore_index=ignored, reduction=node["reduction"])


@operator("SoftmaxCrossEntropyLoss")
def cross_entropy(
    node: Node, scores: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """(the loss of log_softmax(scores), log_softmax(scores))."""
    log_probabilities = torch.log_softmax(scores, 1)
    return nll_loss(node, log_probabilities, target, weight), log_probabilities
