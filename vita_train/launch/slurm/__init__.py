"""Training jobs in the queue of SLURM: one sbatch script a stage, torchrun inside its
allocation."""
