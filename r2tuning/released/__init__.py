"""The authors' released checkpoints.

- `convert`: the weights of a checkpoint as our model
- `resolve`: a released file as a folder for `from_pretrained`
- `model_zoo`: all twenty checkpoints, with cards and published results
"""
