"""Export to ONNX: a checkpoint as three graphs that run without torch (`r2tuning export-onnx`).

- `graphs`: the three graphs of tensors, which reuse the model's own modules, and how they are traced
- `settings`: everything else that a runner needs, read from the processor and checked against it
- `folder`: writes a folder with graphs, settings, tokenizer and runner
- `runner`: from a video file and queries to answers; a copy of it travels with every exported folder
"""
