"""The commands that train latent diffusion at 256 and 512 pixels on a GPU with 16 GB.

A test builds each network and adds up the memory of a training step; notebook 13 shows the result. They have not been
trained to the end.
"""

_LARGE = "--widths 128 256 384 512 --blocks 2 --dropout 0.1 --batch-size 128 --learning-rate 3e-4 --steps 60000"
_PRETRAINED = "--method pretrained --autoencoder sdxl-vae --source animal-faces"
_OWN_AUTOENCODER = "--method own --autoencoder-steps 40000 --source animal-faces"

COMMANDS = (
    f"python -m helpers.tiny_sd.train {_PRETRAINED} --size 256 --patch 1 {_LARGE}",
    f"python -m helpers.tiny_sd.train {_PRETRAINED} --size 512 --patch 2 {_LARGE}",
    f"python -m helpers.tiny_sd.train {_OWN_AUTOENCODER} --size 256 --patch 2 {_LARGE}",
    f"python -m helpers.tiny_sd.train {_OWN_AUTOENCODER} --size 512 --patch 4 {_LARGE}",
)
