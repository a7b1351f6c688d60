"""`Sparsifier` as other libraries have such things: torchao's `sparsify_(model, config, filter_fn)`, a callback for
Lightning and one for Hugging Face's Trainer. The latter two are imported by those who have these installed.

May import pruning.
"""
