"""Data sets: COCO annotation files as packed arrays, their splits, a generator and a checker."""
