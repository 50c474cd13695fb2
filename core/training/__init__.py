"""Training: the loop, the step, and what a run is made of."""
