"""Training a codec: its losses, the module that the engine trains, and its validation."""
