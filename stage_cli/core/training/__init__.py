"""Training: one TOML file describes a run."""
