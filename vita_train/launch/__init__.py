"""Starting the processes of a stage: on this machine with torchrun. Nothing here imports torch."""
