"""Layers that the networks are assembled from, one idea a file."""
