"""What a run's directory says beyond its predictions: learning curves, experts, gradients, data."""
