"""The commands of `rainshed`, one file each: `add` describes its words, `run` does it and gives the exit code."""
