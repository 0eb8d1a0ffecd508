"""Training on MNIST: data, engines, run folder, TensorBoard and the command line."""
