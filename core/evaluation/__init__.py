"""Evaluation: detections on a dataset, COCO's metrics, files of results, drawings."""
