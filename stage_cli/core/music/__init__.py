"""Beats, keys, stems and notes: what data, players and evaluation share."""
