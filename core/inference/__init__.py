"""From an image to detections: scales, flips and crops, and suppression at the end."""
