"""Quantisation-aware training: a folded network that rounds as its 8-bit network will, by torchao (`subp_quantizer`).

network = FakeQuantised(model, example)      # copies the model's weights
network.keep_zeros(optimizer)                # of SGD over network.parameters()
train_epoch(network, ..., optimizer, ...)    # ranges are observed, gradients pass straight through the rounding
network.evaluated()                          # as it would be quantised now
network.quantised()                          # is quantised: int8 weights, for any batch size
"""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from subp.training.quantised import usable
from subp_contract.errors import UserError, first_line


class FakeQuantised(nn.Module):
    """The network in training: parameters and buffers are the model's, by its names after `network.`, and the ranges.

    model:    a folded network, in any mode; left as it is
    example:  images [2 or more, C, H, W] on the model's device; it then takes any number of that size
    weight_bits: 8, or 7 for weights of -63 to 63

    Raises UserError where torch.export cannot trace the model, or nothing of it is computed in 8 bits.
    """

    def __init__(self, model: nn.Module, example: Tensor, weight_bits: int = 8) -> None:
        from subp_quantizer import quantization  # torchao takes half a second, of every training

        super().__init__()
        self.example = example
        program = _exported(model, example, training=True)
        self.network: fx.GraphModule = quantization.prepared(program, qat=True, weight_bits=weight_bits)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, classes]."""
        return self.network(images)

    def train(self, mode: bool = True) -> "FakeQuantised":
        """Nothing: the network was traced in training mode, and stays there."""
        self.training = mode
        return self

    def __deepcopy__(self, memo: dict) -> "FakeQuantised":
        from subp_quantizer import quantization

        other = object.__new__(type(self))
        nn.Module.__init__(other)
        other.example, other.network = self.example, quantization.copied(self.network)
        return other

    def keep_zeros(self, optimizer: torch.optim.Optimizer) -> None:
        """From here on the optimizer's steps leave alone what is zero now in weights of two dimensions and more: the
        pattern is settled. A weight of nothing but zeros has none.
        """
        matrices = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        kept = [(each, each.detach() != 0) for each in matrices]
        kept = [(parameter, mask) for parameter, mask in kept if mask.any() and not mask.all()]

        def zero(*_: Any) -> None:
            for parameter, mask in kept:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)

        optimizer.register_step_pre_hook(zero)

    def load(self, state: dict[str, Tensor], what: str) -> None:
        """Takes over a state dict. Raises UserError, beginning with `what`, for another network's."""
        others = sorted(state.keys() ^ self.state_dict().keys())
        if others:
            raise UserError(f"{what} do not fit this network: {others[0]} and so on are in one only")
        try:
            self.load_state_dict(state)  # which gives ranges their sizes
        except RuntimeError as error:
            raise UserError(f"{what} do not fit this network: {first_line(error)}") from error

    @torch.no_grad()
    def evaluated(self) -> nn.Module:
        """A copy that rounds as the quantised network would: batch norms by their running statistics, ranges fixed,
        those of weights by the weights as they are now.
        """
        from subp_quantizer import quantization
        from subp_quantizer.torchao_import import fake_quantize

        module = quantization.in_evaluation(self.network)
        observers = [each for each in module.modules() if isinstance(each, fake_quantize.FakeQuantizeBase)]
        for observer in observers:
            observer.enable_observer(bool(observer.is_per_channel))  # of weights
        module(self.example)
        for observer in observers:
            observer.disable_observer()
        return usable(module)

    def quantised(self) -> nn.Module:
        """The network with int8 weights and quantise/dequantise pairs; for any batch size."""
        from subp_quantizer import quantization

        module = self.evaluated()
        assert isinstance(module, fx.GraphModule)
        return usable(quantization.quantised(module))

    def write_back(self, model: nn.Module) -> None:
        """Gives the model that this was made of the weights and statistics as they are now."""
        state, own = self.network.state_dict(), model.state_dict()
        model.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()})


def program(quantised: nn.Module, example: Tensor) -> ExportedProgram:
    """The quantised network as a program that takes any number of images like the example's."""
    return _exported(quantised.cpu(), example.cpu(), training=False)


def _exported(model: nn.Module, example: Tensor, training: bool) -> ExportedProgram:
    modes = [(each, each.training) for each in model.modules()]
    model.train(training)
    try:
        with torch.set_grad_enabled(training):
            return torch.export.export(model, (example,), dynamic_shapes=({0: Dim.DYNAMIC},))
    except Exception as error:  # of any kind: the network's own code runs
        raise UserError(
            "training for 8 bits needs a network that torch.export can trace for any number of images: "
            f"{first_line(error)}"
        ) from error
    finally:
        for each, was in modes:
            each.training = was
