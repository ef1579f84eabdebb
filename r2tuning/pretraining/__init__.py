"""Pre-training of a small CLIP or SigLIP on single pictures of Moving Shapes."""
