"""What is measured of a song: levels, beats, bars, key and tags."""
