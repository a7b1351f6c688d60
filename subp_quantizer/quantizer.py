"""Tells torchao what to quantise: weights int8 per output channel, symmetric; activations uint8 per tensor, affine.

A symmetric weight has 0 exactly, so blocks of zeros stay blocks of zeros. Activations use all of 0 to 255, weights
-127 to 127, or, of 7 bits, -63 to 63: CPUs that add the products of two bytes in 16 bits saturate with larger ones.
"""

from collections.abc import Collection

import torch
from torch import fx

from subp_quantizer import WEIGHT_BITS
from subp_quantizer.sites import Choice, Edge, Kind, chosen
from subp_quantizer.torchao_import import fake_quantize, observer, quantizer

ACTIVATION = (0, 255)
# While training, a weight's range is that of its present values, an activation's a moving average over batches.
PRESENT = 1.0


def weight_spec(qat: bool, bits: int) -> "quantizer.QuantizationSpec":
    """Of a weight `[O, ...]`, as int8 of which so many bits are used."""
    if qat:
        made = fake_quantize.FusedMovingAvgObsFakeQuantize.with_args(
            observer=observer.MovingAveragePerChannelMinMaxObserver, averaging_constant=PRESENT
        )
    else:
        made = observer.PerChannelMinMaxObserver
    high = 2 ** (bits - 1) - 1
    return quantizer.QuantizationSpec(
        torch.int8, made, -high, high, qscheme=torch.per_channel_symmetric, ch_axis=0, is_dynamic=False
    )


def activation_spec(qat: bool) -> "quantizer.QuantizationSpec":
    """Of any other tensor: calibration chooses the range by which its histogram is rounded least."""
    made = observer.HistogramObserver
    if qat:
        made = fake_quantize.FusedMovingAvgObsFakeQuantize.with_args(observer=observer.MovingAverageMinMaxObserver)
    low, high = ACTIVATION
    return quantizer.QuantizationSpec(torch.uint8, made, low, high, qscheme=torch.per_tensor_affine, is_dynamic=False)


class BlockQuantizer(quantizer.Quantizer):
    """torchao's interface to the sites of a graph (`sites.chosen`, which takes `wide`), for calibration or for training
    (`qat`), with weights of so many bits.
    """

    def __init__(self, qat: bool = False, wide: Collection[str] = (), weight_bits: int = max(WEIGHT_BITS)):
        super().__init__()
        self.wide = wide
        self.weight, self.activation = weight_spec(qat, weight_bits), activation_spec(qat)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotates the nodes of every site."""
        for choice in chosen(model.graph, self.wide):
            self.annotate_site(choice)
        return model

    def annotate_site(self, choice: Choice) -> None:
        """Annotates one site's edges, and its results where they are stored in 8 bits."""
        site = choice.site
        for node in site.nodes:
            annotation_of(node)
        first, *rest = site.inputs
        self.annotate_input(first, self.activation)
        shared = quantizer.SharedQuantizationSpec((first.value, first.reader))
        for edge in rest:
            self.annotate_input(edge, shared if site.kind is Kind.MOVED else self.activation)
        if site.weight is not None:
            self.annotate_input(Edge(site.weight, site.head), self.weight)
        if choice.stored:
            for result in site.results:
                annotation_of(result).output_qspec = shared if site.kind is Kind.MOVED else self.activation

    def annotate_input(self, edge: Edge, spec: "quantizer.QuantizationSpecBase") -> None:
        """Annotates what an operator reads."""
        annotation_of(edge.reader).input_qspec_map[edge.value] = spec

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing: what is annotated is what was found."""


def annotation_of(node: fx.Node) -> "quantizer.QuantizationAnnotation":
    """A node's annotation, made where there is none."""
    key = quantizer.quantizer.Q_ANNOTATION_KEY
    return node.meta.setdefault(key, quantizer.QuantizationAnnotation(_annotated=True))
