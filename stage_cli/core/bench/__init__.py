"""How fast a model runs on this machine, and in how much memory: the core of `stage bench`."""
