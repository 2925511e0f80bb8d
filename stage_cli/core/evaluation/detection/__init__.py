"""What is heard in audio: beats, onsets, key and chroma."""
