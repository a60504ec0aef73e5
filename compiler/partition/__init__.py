"""Which tiles every op is cut into, and on which machine each lies."""
