"""Players: models that write notes, what they listen with, and the instruments that play them."""
