"""From a picture to detections: resizing, padding, scales, mirroring, and what is left at the end."""
