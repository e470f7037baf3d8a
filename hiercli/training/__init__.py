"""Training: recipes, class-balanced batches, the trainer, and checkpoints that survive a kill."""
