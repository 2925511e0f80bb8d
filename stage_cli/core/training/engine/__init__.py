"""The training loop: it knows batches, gradients, processes and files, and nothing of what is trained."""
