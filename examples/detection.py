"""A detector of torchvision: trained dense and sparse, compiled without its post-processing, which stays outside.

    python examples/detection.py --steps 60

torchvision's SSD with SSDlite's heads on a ResNet-18, up to its second stage; drawn shapes. What is compiled gives each
default box's scores and offsets; decoding and the choice among boxes that overlap are a few lines of PyTorch. Shares
of the shapes that are found, of the dense network, the sparse one, and the sparse one compiled.
"""

import argparse

import torch
from drawn_shapes import NAMES, Drawn, draw
from segmentation import SIZE, train
from torch import Tensor, nn

import tvm_sched
from subp.common.vision import import_torchvision

torchvision = import_torchvision()  # also where its wheel and PyTorch's differ in kind
detection = torchvision.models.detection
FOUND = 0.5  # of the union of two boxes, what they share


def network() -> nn.Module:
    """Images -> losses in training; see `Raw` for what is deployed. Two default boxes for each 8x8 pixels."""
    torch.manual_seed(0)
    backbone = torchvision.models._utils.IntermediateLayerGetter(torchvision.models.resnet18(), {"layer2": "0"})
    boxes = detection.anchor_utils.DefaultBoxGenerator([[]], scales=[0.27, 0.36])
    head = detection.ssdlite.SSDLiteHead([128], boxes.num_anchors_per_location(), 1 + len(NAMES), nn.BatchNorm2d)
    return detection.ssd.SSD(
        backbone, boxes, (SIZE, SIZE), 1 + len(NAMES), [0.5] * 3, [0.5] * 3, head=head, positive_fraction=0.25
    )


class Raw(nn.Module):
    """Normalised images [B, 3, S, S] -> (scores [B, A, 1 + classes], the background's first; offsets [B, A, 4])."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.head(list(self.backbone(images).values()))
        return outputs["cls_logits"].softmax(-1), outputs["bbox_regression"]


def default_boxes(model: nn.Module, images: Tensor) -> Tensor:
    """[A, 4], x0, y0, x1, y1 in pixels."""
    features = list(model.backbone(images[:1]).values())
    sizes = [images.shape[2:]]
    return model.anchor_generator(detection.image_list.ImageList(images[:1], sizes), features)[0]


def detections(
    model: nn.Module, scores: Tensor, offsets: Tensor, defaults: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """(boxes [count, 4], classes [count]) of one image, the surest first, none that overlaps a surer one."""
    boxes = model.box_coder.decode_single(offsets, defaults)
    sure, classes = scores[:, 1:].max(1)
    chosen: list[Tensor] = []
    for index in sure.argsort(descending=True):
        if not chosen or shared(boxes[index], boxes[torch.stack(chosen)]).max() < FOUND:
            chosen.append(index)
        if len(chosen) == count:
            break
    return boxes[torch.stack(chosen)], classes[torch.stack(chosen)]


def shared(box: Tensor, boxes: Tensor) -> Tensor:
    """Of the union of a box [4] and each of the boxes [B, 4], the part that both cover [B]."""
    return torchvision.ops.box_iou(box[None], boxes)[0]


def found(model: nn.Module, outputs: tuple[Tensor, Tensor], defaults: Tensor, judged: Drawn) -> float:
    """The share of the shapes that a box of their class covers, of as many boxes as there are shapes."""
    hits = 0
    for image, (scores, offsets) in enumerate(zip(*outputs, strict=True)):
        boxes, classes = detections(model, scores, offsets, defaults, judged.boxes.shape[1])
        for box, kind in zip(judged.boxes[image], judged.classes[image], strict=True):
            hits += bool(((shared(box, boxes) > FOUND) & (classes == kind)).any())
    return hits / judged.classes.numel()


def main() -> None:
    """Prints three accuracies, and how far the compiled network is from PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="of training, 16 images each")
    options = parser.parse_args()
    drawn, judged = draw(512, SIZE, seed=0), draw(64, SIZE, seed=1)
    targets = [{"boxes": boxes, "labels": 1 + of} for boxes, of in zip(drawn.boxes, drawn.classes, strict=True)]
    images = 2 * judged.images - 1  # as the network's transform normalises them
    for sparsity in (0.0, 0.75):
        model = network()

        def loss(batch: Tensor, model: nn.Module = model) -> Tensor:
            return sum(model(list(drawn.images[batch]), [targets[number] for number in batch]).values())

        train(model, loss, len(drawn.images), options.steps, sparsity)
        with torch.no_grad():
            outputs, defaults = Raw(model)(images), default_boxes(model, images)
        print(f"{sparsity:.0%} pruned: {found(model, outputs, defaults, judged):.1%} of the shapes found")
    artifact = tvm_sched.compile(Raw(model).eval(), images, threads=1)
    compiled = tuple(map(torch.as_tensor, artifact(images)))
    difference = max(float((ours - theirs).abs().max()) for ours, theirs in zip(compiled, outputs, strict=True))
    print(f"compiled: {found(model, compiled, defaults, judged):.1%}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
