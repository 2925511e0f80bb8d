"""The command line: each command parses its options, makes a config, and makes one core call."""
