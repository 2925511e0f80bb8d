"""EnCodec: audio to codes and back (https://arxiv.org/abs/2210.13438)."""
