"""Training targets, rendered from a batch where the network runs."""
