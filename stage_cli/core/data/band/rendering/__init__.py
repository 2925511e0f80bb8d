"""The renderers: from a score to recorded tracks."""
