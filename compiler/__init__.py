"""The compiler: a loss and a cluster in, a plan out. Pure: same graph, cluster and seed give the same plan."""
