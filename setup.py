"""Package: the model (`modeling_r2tuning`), the benchmarks (`dataset_scripts`) and the `r2tuning` command."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "modeling_r2tuning/__init__.py").read_text())[1]

setup(
    name="r2tuning",
    version=VERSION,
    description="R2-Tuning for video temporal grounding on transformers: moments, highlights and summaries from text",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={
        "Paper": "https://arxiv.org/abs/2404.00801",
        "Original code": "https://github.com/yeliudev/R2-Tuning",
        "Original checkpoints": "https://huggingface.co/yeliudev/R2-Tuning",
    },
    keywords=["video temporal grounding", "moment retrieval", "highlight detection", "video summarization", "CLIP"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["modeling_r2tuning*", "dataset_scripts*", "r2tuning*"]), "r2tuning.hub_cards"],
    package_dir={"r2tuning.hub_cards": "hub_cards"},  # a folder of its own in the sources, data of the package
    package_data={
        "dataset_scripts": ["py.typed"],
        "modeling_r2tuning": ["default_model/*", "py.typed"],
        "r2tuning": ["py.typed"],
        "r2tuning.app": ["assets/*"],
        "r2tuning.hub_cards": ["*", "endpoint/*", "space/*"],
        "r2tuning.training": ["presets/*.json"],
        "r2tuning_cli": ["py.typed"],
    },
    python_requires=">=3.11",  # what numpy 2.4, as pinned in constraints.txt, needs
    install_requires=[
        "torch>=2.6",  # what transformers 5 asks for; the tests ran with 2.13
        "transformers>=5.17",  # the tests pass with 5.17 (and huggingface_hub 1.33) and with 5.23
        "huggingface_hub>=1.33",
        "safetensors>=0.8",
        "numpy>=1.26",
        "pillow>=10",
        "av>=17.1",
        "tqdm>=4.60",
        "datasets>=5.2",
        "evaluate>=0.4.6",
        "jinja2>=3.1",  # cards
        "pyyaml>=6",
    ],
    extras_require={
        "plot": ["matplotlib>=3.8"],
        "lora": ["peft>=0.21"],  # checkpoints of the method "lora"
        "onnx": ["onnx>=1.19", "onnxscript>=0.6", "onnxruntime>=1.23"],  # `r2tuning export-onnx`; tested down to these
        "int8": ["torchao>=0.18"],  # encoders in int8; the tests ran with 0.18 and torch 2.13
        "ray": ["ray>=2.44"],  # `--executor ray`; the tests ran with 2.60, jobs and their repetition with 2.44 too
        "siglip": ["sentencepiece>=0.2", "protobuf>=4.25"],  # the tokenizer of SigLIP's first checkpoints
        "library": ["lancedb>=0.40"],  # search of many videos by sentence
        "editors": ["opentimelineio>=0.17"],  # --export FILE.otio; the other formats need nothing
        "app": [
            "gradio>=6.29",
            "matplotlib>=3.8",
            "opentimelineio>=0.17",
        ],  # `r2tuning app`; the tests ran with 6.29 and 6.31
        "tvsum": ["h5py>=3.10"],  # TVSum's own .mat file
        "train": ["accelerate>=1.15", "matplotlib>=3.8", "tensorboard>=2.14"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "ruff>=0.14",
            "mypy>=2.4",
            "types-PyYAML>=6.0",
            "types-tqdm>=4.70",
            "h5py>=3.10",
            "matplotlib>=3.8",
            "peft>=0.21",
            "sentencepiece>=0.2",
            "protobuf>=4.25",
            "torchao>=0.18",
            "accelerate>=1.15",
            "tensorboard>=2.14",
            "lancedb>=0.40",
            "opentimelineio>=0.17",
            "otio-cmx3600-adapter>=1.0",  # these and the two below read back what --export writes
            "otio-fcp-adapter>=1.0",
            "pysrt>=1.1.2",
            "webvtt-py>=0.5",
            "gradio>=6.29",
            "playwright>=1.50",  # drives a Chromium that is installed apart: `apt-get install chromium`
        ],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.8", "mkdocstrings[python]>=1.0"],
    },
    entry_points={"console_scripts": ["r2tuning = r2tuning_cli.main:main"]},
)
