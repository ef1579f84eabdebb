"""The transfer methods of the paper's Table 9: what each needs from the model around it.

This is a description alone: the modules are in the files of the single methods. It imports nothing, so that the
configuration can use it.
"""

from dataclasses import dataclass
from typing import Literal


Method = Literal["r2_tuning", "none", "full", "lora", "vpt", "vop", "st_adapter", "e3va", "losa", "lst"]


@dataclass(frozen=True)
class MethodSpec:
    """Properties of a transfer method that other parts of the model depend on.

    Attributes:
        place: Where the method works. `"recurrence"`: in the R2 block, over the last K layers of the frozen encoders.
            `"inside"`: in the encoders' layers, so gradients pass through them. `"beside"`: in a side network that
            reads the hidden states of the frozen encoders. `"nowhere"`: nothing is tuned.
        reads_patches: All tokens of a frame are read, not the one that represents the frame alone.
        reads_branches: The outputs of the attention and MLP branches of each layer are read, and of the layers only
            the last.
        needs_cls: The method uses the CLS token inside the image encoder.
        mixes_frames: Frames see each other inside the encoder, so a video must be encoded as a whole.
        layer_interval: Distance between the layers that are read, counted back from the last.
        trains_encoders: The encoders' own weights are trained, so they belong to the checkpoint.
        uses_peft: The adapters are peft's: they sit in the encoders' layers and are saved in files of their own.
    """

    place: Literal["recurrence", "inside", "beside", "nowhere"]
    reads_patches: bool = False
    reads_branches: bool = False
    needs_cls: bool = False
    mixes_frames: bool = False
    layer_interval: int = 1
    trains_encoders: bool = False
    uses_peft: bool = False

    @property
    def reads_last_layer_only(self) -> bool:
        """Whether the last layer is all that is read, as without a recurrence or a side network."""
        return self.place in ("inside", "nowhere")

    @property
    def reads_plain_layers(self) -> bool:
        """Whether only outputs of the original encoders' layers are read, so that a feature cache can be used."""
        return self.place != "inside" and not self.reads_branches

    @property
    def tokens_read(self) -> slice:
        """Tokens of a frame that are read; the one that represents the frame is the first."""
        return slice(None) if self.reads_patches else slice(1)

    def layers_read(self, num_layers: int) -> slice:
        """Layers that are read among the last `num_layers`, as a slice of all layers; the last one is always read."""
        first = (num_layers - 1) % self.layer_interval
        return slice(first - num_layers, None, self.layer_interval)

    def num_text_states(self, num_layers: int) -> int:
        """Number of hidden states of a token of text, with `layers_read(num_layers)`."""
        return len(range(num_layers)[self.layers_read(num_layers)])

    def num_video_states(self, num_layers: int) -> int:
        """Number of hidden states of a frame: one for each layer, or two branches for each layer and the last output."""
        return 2 * num_layers + 1 if self.reads_branches else self.num_text_states(num_layers)


METHOD_SPECS: dict[Method, MethodSpec] = {
    "r2_tuning": MethodSpec("recurrence", reads_patches=True),
    "none": MethodSpec("nowhere"),
    "full": MethodSpec("inside", trains_encoders=True),
    "lora": MethodSpec("inside", uses_peft=True),
    "vpt": MethodSpec("inside"),
    "vop": MethodSpec("inside", needs_cls=True, mixes_frames=True),
    "st_adapter": MethodSpec("inside", mixes_frames=True),
    "e3va": MethodSpec("beside", reads_branches=True, needs_cls=True),
    "losa": MethodSpec("beside", reads_patches=True),
    "lst": MethodSpec("beside", reads_patches=True, layer_interval=2),
}


__all__ = ["METHOD_SPECS", "Method", "MethodSpec"]
