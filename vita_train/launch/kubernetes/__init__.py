"""Training jobs on Kubernetes: PyTorchJob and TrainJob behind one interface."""
