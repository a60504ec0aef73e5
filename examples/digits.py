"""The network of Figure 1 in the DistBelief paper on 8 x 8 digits: five layers, four of them locally connected.

    rainshed compile examples/digits.py:build --machines 4
    rainshed train examples/digits.py:build --method downpour --replicas 3 --servers 2 --machines 4 --data digits.npz

The data holds image: f32[n, 8, 8, 1] from 0 to 1, and label: int32[n]; `rainshed.engine.datasets.digits()` gives some.
"""

import rainshed as rs


def build(filters: int = 8, size: int = 3, side: int = 8, classes: int = 10, rate: float = 0.02) -> rs.Graph:
    """Every position has weights of its own, so a cut between positions keeps all weights where they are."""
    image = rs.input("image", (None, side, side, 1))
    label = rs.input("label", (None,), "int32")

    h = rs.layers.local2d(image, filters, size, padding="same", activation=rs.relu)
    h = rs.layers.local2d(h, filters, size, padding="same", activation=rs.relu)
    h = rs.layers.local2d(h, 2 * filters, size, stride=2, padding="same", activation=rs.relu)
    h = rs.layers.local2d(h, 2 * filters, size, padding="same", activation=rs.relu)
    logits = rs.layers.dense(rs.layers.flatten(h), classes)

    return rs.graph(
        loss=rs.mean(rs.softmax_cross_entropy(logits, label)),
        outputs={"log_probabilities": rs.log_softmax(logits)},
        optimizer=rs.Adagrad(rate),
    )
