"""A CLIP that sees as before and reads as if never trained: to try what the alignment of both encoders is worth.

python benchmarks/fresh_text_encoder.py CLIP OUT

Words keep vectors of their own, drawn at random.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import CLIPModel

from modeling_r2tuning.files_r2tuning import writing_folder
from r2tuning.pretraining.model import TOKEN_STD


def main() -> None:
    """Copy the CLIP, its text encoder and text projection begun anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, metavar="CLIP", help="folder of a CLIP")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--seed", type=int, default=1, help="of the text encoder (default: 1)")
    args = parser.parse_args()
    told = shutil.ignore_patterns("README.md", "acceptance.json")  # of the trained text encoder
    with writing_folder(args.output) as folder:
        shutil.copytree(args.clip, folder, ignore=told, dirs_exist_ok=True)
        begin_text_anew(CLIPModel.from_pretrained(args.clip), args.seed).save_pretrained(folder)


def begin_text_anew(clip: CLIPModel, seed: int) -> CLIPModel:
    """Replace what `train/pretrain_clip.py` would have trained of the text encoder by its first weights."""
    torch.manual_seed(seed)
    fresh = CLIPModel(clip.config)
    fresh.text_model.embeddings.token_embedding.weight.data.normal_(0, TOKEN_STD)
    clip.text_model, clip.text_projection = fresh.text_model, fresh.text_projection
    return clip


if __name__ == "__main__":
    main()
