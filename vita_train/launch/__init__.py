"""Starting the processes of a stage: on this machine with torchrun, or as jobs of Kubernetes or
SLURM. Nothing here imports torch."""
