"""The speech network of the DistBelief paper: 11 frames of 40 energies, 4 sigmoid layers of 2560 units, 8192 classes.

    rainshed compile examples/speech.py:build --machines 4 --batch 64
    rainshed train examples/speech.py:small --method downpour --replicas 3 --servers 2 --machines 2 --data windows.npz

The data holds window: f32[n, frames, features], and label: int32[n]; `rainshed.engine.datasets.vowels()` gives some
that fit `small` and `recurrent`.
"""

import rainshed as rs


def build(
    frames: int = 11,
    features: int = 40,
    hidden: tuple[int, ...] = (2560, 2560, 2560, 2560),
    classes: int = 8192,
    rate: float = 0.01,
) -> rs.Graph:
    """Fully connected, 42 million parameters as it stands here."""
    window = rs.input("window", (None, frames, features))
    h = rs.layers.flatten(window)
    for units in hidden:
        # Sigmoid layers want weights about four times larger than tanh layers do: Glorot and Bengio 2010.
        h = rs.layers.dense(h, units, activation=rs.sigmoid, init=rs.init.scaled(rs.init.glorot_uniform, 4))
    return classifier(h, classes, rate)


def small() -> rs.Graph:
    """The same for the speech data that ships with the package: 12 cepstra, 9 speakers."""
    return build(features=12, hidden=(256, 256), classes=9, rate=0.03)


def recurrent(frames: int = 11, features: int = 12, units: int = 64, layers: int = 1, classes: int = 9) -> rs.Graph:
    """LSTM over the frames, in place of the fully connected layers."""
    window = rs.input("window", (None, frames, features))
    return classifier(rs.layers.lstm(window, units, layers=layers), classes, rate=0.03)


def classifier(h: rs.Node, classes: int, rate: float) -> rs.Graph:
    """A softmax over the classes, trained by Adagrad."""
    label = rs.input("label", (None,), "int32")
    logits = rs.layers.dense(h, classes, name="softmax")
    return rs.graph(
        loss=rs.mean(rs.softmax_cross_entropy(logits, label)),
        outputs={"log_probabilities": rs.log_softmax(logits)},
        optimizer=rs.Adagrad(rate),
    )
