"""Readers of label files with boxes: COCO JSON, YOLO text files, csv tables."""
