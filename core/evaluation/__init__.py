"""What a detector finds in a data set: COCO's figures, files of results, drawn pictures."""
