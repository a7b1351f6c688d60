"""Names of augmentation policies, apart from what they do: a command line that lists them need not import PyTorch."""

AUTO_AUGMENT = {  # policies -> torchvision's classes
    "imagenet": "AutoAugment",
    "rand": "RandAugment",
    "trivial": "TrivialAugmentWide",
    "augmix": "AugMix",
}
