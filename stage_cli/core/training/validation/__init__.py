"""How well a model does on songs that it never learns from: losses, and demos to be heard and seen."""
