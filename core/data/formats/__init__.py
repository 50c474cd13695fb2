"""Readers of the formats that datasets come in; each makes the records of a COCO file."""
