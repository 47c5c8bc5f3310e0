"""Training: samples are packed into batches, a step learns from a batch, recipes say from what and for how long."""
