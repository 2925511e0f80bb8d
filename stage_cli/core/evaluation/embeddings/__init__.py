"""Audio to vectors, for the distribution metrics: one small class for each embedding, found by its name.

A new embedding is one class in one file here, and one line in `registry.py`:

    class Brightness(Embedding):
        name, sample_rate, width = "brightness", 16_000, 1

        def vectors(self, clips):
            return [np.abs(clip).mean(keepdims=True)[None] for clip in clips]

`vectors` gets mono clips at the class's own rate, checked and not empty, and returns `[frames, width]` for each.
"""
