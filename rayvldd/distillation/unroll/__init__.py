"""Inner loop: unroll student SGD on the synthetic set and differentiate through it exactly."""
