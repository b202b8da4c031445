"""Perturbed cells, from an AnnData to the batches that a model reads."""
