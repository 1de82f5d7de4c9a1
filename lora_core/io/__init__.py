"""Files: what they are, and reading and writing them safely."""
