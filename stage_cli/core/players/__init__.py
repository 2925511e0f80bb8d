"""Players: models that write notes for a mix, and what they listen with."""
