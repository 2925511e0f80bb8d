"""What musicians write down: notes, beats, and the MIDI files that carry both."""
