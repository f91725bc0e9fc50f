"""Transforms of whole batches as tensors: geometry, augmentation, mirror twins."""
