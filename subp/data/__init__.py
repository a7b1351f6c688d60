"""Images: folders, zips, MNIST's files and torchvision's data sets, their transforms and augmentation, and the batches
of an epoch, which depend on epoch and seed alone.

May import subp.common; must not know networks, masks or how training goes.
"""
