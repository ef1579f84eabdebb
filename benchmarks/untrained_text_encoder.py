"""A CLIP whose text encoder is untrained, for experiments on the alignment of image and text encoder.

python -m benchmarks.untrained_text_encoder CLIP OUT

The image encoder is unchanged. Each word keeps a vector of its own, drawn at random.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import CLIPModel

from modeling_r2tuning.files_r2tuning import writing_folder
from r2tuning.checkpoint_files import CARD
from r2tuning.pretraining.acceptance import ACCEPTANCE_FILE
from r2tuning.pretraining.model import TOKEN_STD


def main() -> None:
    """Copy a CLIP and reinitialise its text encoder and text projection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, metavar="CLIP", help="folder of a CLIP")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--seed", type=int, default=1, help="seed of the text encoder (default: 1)")
    args = parser.parse_args()
    about_trained_encoder = shutil.ignore_patterns(CARD, ACCEPTANCE_FILE)
    with writing_folder(args.output) as folder:
        shutil.copytree(args.clip, folder, ignore=about_trained_encoder, dirs_exist_ok=True)
        reinitialise_text(CLIPModel.from_pretrained(args.clip), args.seed).save_pretrained(folder)


def reinitialise_text(clip: CLIPModel, seed: int) -> CLIPModel:
    """Replace the text encoder by the initialisation that `train/pretrain_backbone.py` starts from."""
    torch.manual_seed(seed)
    untrained = CLIPModel(clip.config)
    untrained.text_model.embeddings.token_embedding.weight.data.normal_(0, TOKEN_STD)
    clip.text_model = untrained.text_model
    clip.text_projection = untrained.text_projection
    return clip


if __name__ == "__main__":
    main()
