"""Layers that the networks are assembled from."""
