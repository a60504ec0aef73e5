"""Cluster back ends: how the machines of a plan come to life. `local`: threads of this process."""
