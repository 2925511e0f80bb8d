"""Synthetic band songs: a composer writes a score, a renderer plays it, and a MoisesDB-layout set is written."""
