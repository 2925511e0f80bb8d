"""Generation: owns the cache, the random numbers and the loop. Codes in, codes out."""
