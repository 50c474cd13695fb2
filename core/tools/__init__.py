"""Commands beside training and evaluation: plan, plot, detect."""
