"""Writes the checkpoints of `data/` and PyTorch's logits on them; run it in this folder."""

from pathlib import Path

import numpy as np
import torch
import torch_networks as nets

FOLDER = Path(__file__).parent / "data"


def main() -> None:
    x = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32)
    resnet = nets.drawn(nets.Residual((4, 6), 1, 5))
    normalized = nets.Normalized(resnet, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    preact = nets.drawn(
        nets.Residual((4, 6), 1, 5, block=nets.PreActivated, raw=False, last=True), 1
    )
    # As training code saves it: wrapped for several devices, beside other things.
    state = {f"module.{name}": tensor for name, tensor in normalized.state_dict().items()}
    saved = {"epoch": 3, "loss": 0.25, "state_dict": state}
    torch.save(saved, FOLDER / "resnet_narrow.pt")
    # The format before PyTorch 1.6.
    torch.save(
        preact.state_dict(),
        FOLDER / "preact_narrow_stream.pt",
        _use_new_zipfile_serialization=False,
    )
    with torch.no_grad():
        z = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        logits = {"resnet": normalized(z).numpy(), "preact": preact(z).numpy()}
    np.savez_compressed(FOLDER / "narrow_logits.npz", x=x, **logits)


if __name__ == "__main__":
    main()
