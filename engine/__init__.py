"""The words and verbs of the user: the language, layers, optimizers, data, training methods, checkpoints, views, command line."""
