"""Datasets: COCO annotation files, their splits and images, training samples, and batches."""
