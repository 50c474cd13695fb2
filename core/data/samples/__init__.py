"""Training samples: what each family of detectors sees of an image."""
