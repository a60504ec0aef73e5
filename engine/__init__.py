"""The words and verbs of the user: language, layers, optimizers, data, training, checkpoints, views, command line."""
