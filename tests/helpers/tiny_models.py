"""Sizes of the tiny models."""

TINY_VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 32,
    "projection_dim": 32,
}
TINY_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 16,
    "bos_token_id": 62,
    "eos_token_id": 63,
    "projection_dim": 32,
}
TINY = {"hidden_size": 32, "num_attention_heads": 4, "num_recurrent_steps": 3, "strides": (1, 2, 4)}
