"""What `stage train` trains: a language model that writes a stem, on tokens of a frozen codec."""
