"""From a context to files with its stem: read, encode, generate, decode, write, all in memory that does not grow."""
