"""Weights: names to local files, and the four published formats to ours."""
