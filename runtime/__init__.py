"""From a plan to numbers: dispatcher, executor, transports, parameter server, cluster back ends, traces."""
