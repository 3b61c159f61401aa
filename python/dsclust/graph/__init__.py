"""From a coefficient matrix to labels: the graph (`affinity`), its eigenvectors (`spectral`), its clusters."""
