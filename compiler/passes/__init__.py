"""The passes, each a function from graph to graph in the file of its name; `pipeline.PASSES` is their order."""
