"""Training targets and colour, rendered from a batch where the network runs."""
