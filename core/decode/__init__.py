"""From maps to detections: peaks, pairs of corners, soft-NMS."""
