"""What is published on the Hub: checkpoints and datasets with their cards."""
