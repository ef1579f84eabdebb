"""Publishing on the Hub.

- `push`: a checkpoint (`push_checkpoint`, `r2tuning push`)
- `endpoint`: what an Inference Endpoint needs beside a checkpoint
- `space`, `wheel`: the web app as a Space (`push_space`, `r2tuning push --space`), with this package as a wheel
- `dataset_export`: a benchmark as a Parquet dataset (`r2tuning export-dataset`)
- `repository`: what all use, one commit to a repository that keeps what others wrote there
- `default_model`: makes a trained checkpoint the default model of the package
- `model_card`, `card_text`: the cards, and how an existing card is refreshed
"""
