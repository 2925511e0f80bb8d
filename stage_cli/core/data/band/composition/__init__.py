"""The composer: from a seed and an index to a score. Knows music, not sound."""
