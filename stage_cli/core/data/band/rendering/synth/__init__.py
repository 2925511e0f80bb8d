"""The built-in synthesizer: every instrument of the band from numpy alone, another timbre for each song."""
