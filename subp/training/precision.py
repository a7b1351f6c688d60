"""How a training step computes: in which number format, and how images lie in memory."""

import contextlib

import torch
from torch import Tensor, nn

from subp.training.config import AMP
from subp_contract.errors import require


class Precision:
    """Mixed precision (torch.amp) and memory format of one run.

    amp:            "bf16", "fp16" or None: the forward pass computes in it where autocast deems that safe; weights stay
                    float32. In fp16 losses are scaled up, so that small gradients do not vanish.
    channels_last:  images and weights lie pixel by pixel instead of channel by channel
    """

    def __init__(self, amp: str | None, channels_last: bool, device: torch.device) -> None:
        if amp:
            usable = torch.amp.is_autocast_available(device.type)
            if device.type == "cuda" and amp == "bf16":
                usable = torch.cuda.is_bf16_supported()
            require(usable, f"the device {device} cannot compute in {amp}: leave amp out")
        self.device = device
        self._dtype = getattr(torch, AMP[amp]) if amp else None
        self._format = torch.channels_last if channels_last else torch.preserve_format
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    @classmethod
    def plain(cls, model: nn.Module) -> "Precision":
        """float32, on the device that the model is on."""
        return cls(None, False, next(model.parameters()).device)

    def place(self, images: Tensor) -> Tensor:
        """The images [B, C, H, W] on the device, in the memory format."""
        return images.to(self.device, non_blocking=True, memory_format=self._format)

    def place_model(self, model: nn.Module) -> nn.Module:
        """The model likewise, in place."""
        return model.to(self.device, memory_format=self._format)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context to compute outputs and loss in."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step on gradients of scaled losses; left out, and the scale lowered, if one is infinite."""
        self.scaler.step(optimizer)
        self.scaler.update()
