"""What a run leaves behind to be read: metrics, TensorBoard, W&B, curves, and the card of its model."""
