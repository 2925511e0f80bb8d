"""Players: models that write notes, and the instruments that play them."""
