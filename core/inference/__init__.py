"""From a picture to detections: sizes, scales, mirroring, and what is left at the end."""
