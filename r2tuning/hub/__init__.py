"""Publishing on the Hub.

- `push`: a checkpoint (`push_checkpoint`, `r2tuning push`)
- `dataset_export`: a benchmark as a Parquet dataset (`r2tuning export-dataset`)
- `repository`: what both use, one commit to a repository that keeps what others wrote there
- `model_card`, `card_text`: the cards, and how an existing card is refreshed
"""
