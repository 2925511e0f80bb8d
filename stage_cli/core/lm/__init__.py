"""The MusicGen language model: tokens to logits. It never samples (https://arxiv.org/abs/2306.05284)."""
