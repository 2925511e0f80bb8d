"""Metrics: pure functions of audio, times or embeddings. Each module says its conventions."""
