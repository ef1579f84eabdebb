"""Pre-training of a small CLIP on single pictures of Moving Shapes."""
