"""Object detection and instance segmentation: a Mask R-CNN on a V-MoE (specification detection.md)."""
