"""The commands of `rainshed`, one file each: `add` describes the words it takes, `run` does it and returns the exit code."""
