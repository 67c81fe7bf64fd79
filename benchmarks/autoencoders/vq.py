"""The quantised autoencoder: what ships, on synthetic faces and photographs, beside diffusers and another library.

    python -m helpers.autoencoders.train_vq --source animal-faces --out RUN
    python -m benchmarks.autoencoders.vq          # shows Chelsea, and her reconstruction by the shipped weights
    python -m benchmarks.autoencoders.vq RUN      # shows the run's reconstruction too, and writes its record

No photograph of the dataset is shown: the figure has Chelsea, the cat that scikit-image brings (CC0).
"""

import json
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Comparison, alternating, peak_memory, range_of, recorded, repeated
from benchmarks.parity import difference, randomised
from benchmarks.record import hardware, read_record, write_record
from benchmarks.report import Row, at_least, at_most
from helpers.autoencoders.code_prior import CodePrior
from helpers.autoencoders.kl import KLAutoencoder, KLConfig, published_names
from helpers.autoencoders.quantizers import nearest
from helpers.autoencoders.train_vq import tiny_config
from helpers.autoencoders.vq import CODEBOOK, VQAutoencoder, VQConfig, reconstruct
from helpers.course import repository_root
from helpers.data import load_faces
from helpers.data.chelsea import load_chelsea
from helpers.scoring.attributes import load_classifier
from helpers.scoring.reconstruction import psnr
from helpers.training.precision import computes_bf16
from helpers.weights import read_metadata, weights_path
from helpers.weights.pretrained import load_pretrained

SPEED = "00_assets/results/vq.json"
REAL = "00_assets/results/vq_real_faces.json"
FIGURE = "00_assets/image/chelsea_vq.png"


def check() -> list[Row]:
    """Recompute the claims about the quantised autoencoder."""
    return [*_shipped(), *_real(), *_parity(), *_speed(), _memory()]


@torch.no_grad()
def _shipped() -> list[Row]:
    if not all(weights_path(name).exists() for name in ("vq", "vq_prior")):
        return [Row("VQ, shipped weights", "not there", "python -m helpers.autoencoders.train_vq, train_prior", False)]
    faces = load_faces(split="val", size=64, limit=300)
    metadata = read_metadata("vq")
    model = VQAutoencoder.from_weights("vq")
    reconstructions, _, used = reconstruct(model, faces.tensor())
    species = torch.arange(300) % 3
    indices = CodePrior.from_weights("vq_prior").generate(species, torch.Generator().manual_seed(0))
    samples = torch.cat([model.decode_indices(part) for part in indices.split(50)]).clamp(-1, 1)
    species_accuracy = load_classifier().agreement(samples, {"species": species})["species"]
    size = sum(weights_path(name).stat().st_size for name in ("vq", "vq_prior")) / 1e6
    return [
        at_least("VQ, 300 unseen faces, 64x64 to 16x16: PSNR", psnr(faces.tensor(), reconstructions), 26.0, "dB"),
        at_least("VQ, codes in use", 100 * used.utilization, 95, "%"),
        at_most(f"VQ, minutes to train on {metadata['threads']} cores", float(metadata["minutes"]), 10, "min"),
        at_least("prior over codes: 300 faces show the species asked for", 100 * species_accuracy, 90, "%"),
        at_most("weights of autoencoder and prior", size, 8, "MB"),
    ]


def _real() -> list[Row]:
    path = repository_root() / REAL
    if not path.exists():
        return [Row("VQ, real faces", "never run", "python -m benchmarks.autoencoders.vq RUN", False)]
    record = read_record(path)
    return [at_least(f"VQ, {record['faces']} unseen real faces at 64x64: PSNR", record["psnr"], 22.0, "dB")]


@torch.no_grad()
def _parity() -> list[Row]:
    """Both autoencoders beside diffusers', in the published architectures, with random weights."""
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    our_kl, their_kl = kl_pair()
    mean = their_kl.encode(images).latent_dist.mean
    our_vq, their_vq = vq_pair()
    latents = their_vq.encode(images).latents
    differences = {
        "AutoencoderKL, encoded": difference(our_kl.encode(images).mean, mean),
        "AutoencoderKL, decoded": difference(our_kl.decode(mean), their_kl.decode(mean).sample),
        "VQModel, encoded": difference(our_vq.encode(images), latents),
        "VQModel, quantised and decoded": difference(our_vq.decode(latents), their_vq.decode(latents).sample),
    }
    return [at_most(f"parity with diffusers' {name}", value, 1e-5) for name, value in differences.items()]


def kl_pair() -> tuple[KLAutoencoder, Any]:
    """Ours and diffusers' with the same random weights."""
    from diffusers import AutoencoderKL

    config = KLConfig(width=32, groups=8)
    widths = [config.width * m for m in config.multipliers]
    theirs = randomised(
        AutoencoderKL(
            block_out_channels=widths,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
        )
    )
    ours = KLAutoencoder(config)
    load_pretrained(ours, dict(theirs.state_dict()), published_names(config, "diffusers"), what="an AutoencoderKL")
    return ours.eval(), theirs


def vq_pair() -> tuple[VQAutoencoder, Any]:
    """Our quantised autoencoder and diffusers' with the same random weights."""
    from diffusers import VQModel

    config = VQConfig(width=32, multipliers=(1, 2, 2), groups=8, K=64)
    theirs = randomised(
        VQModel(
            block_out_channels=(32, 64, 64),
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            layers_per_block=2,
            latent_channels=3,
            num_vq_embeddings=64,
            vq_embed_dim=3,
            norm_num_groups=8,
            sample_size=32,
        )
    )
    ours = VQAutoencoder(config)
    names = [*published_names(config.kl_config(), "diffusers"), *CODEBOOK]
    load_pretrained(ours, dict(theirs.state_dict()), names, what="a VQModel")
    return ours.eval(), theirs


def _speed() -> list[Row]:
    return [comparison.row() for comparison in comparisons()]


def comparisons() -> list[Comparison]:
    """Training with our quantiser beside vector-quantize-pytorch's, from the record."""
    if not (record := recorded(SPEED)):
        return [Comparison("VQ training", "vector-quantize-pytorch", None)]
    return [
        Comparison(
            f"VQ training, {entry['network']}: images/s",
            record["peer"],
            entry["ratio"],
            entry["spread"],
            1.0,
            more=True,
        )
        for entry in record["networks"]
    ]


def _memory(vectors: int = 8192, K: int = 8192) -> Row:
    """Peak memory of the search for the nearest of 8,192 codes, over that of the matrix of all distances."""
    z = torch.randn(vectors, 8)
    codebook = torch.randn(K, 8)
    nearest(z, codebook)
    whole = 4 * vectors * K
    return at_most(
        "quantiser's peak memory at K = 8192, of the full distance matrix",
        peak_memory(lambda: nearest(z, codebook)) / whole,
        1.0,
        "x",
    )


class Peer(nn.Module):
    """vector-quantize-pytorch's quantiser where ours would stand: same memory, start, revival and straight gradient."""

    def __init__(self, K: int, width: int, vectors: int):
        """`vectors`: of a batch; its revival counts uses, ours shares of the average use."""
        from vector_quantize_pytorch import VectorQuantize

        super().__init__()
        self.quantizer = VectorQuantize(
            dim=width,
            codebook_size=K,
            decay=0.99,
            commitment_weight=0.25,
            kmeans_init=True,
            kmeans_iters=10,
            rotation_trick=False,
            threshold_ema_dead_code=0.03 * vectors / K,
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) -> codes, and the commitment's loss."""
        codes, _, loss = self.quantizer(z.permute(0, 2, 3, 1).flatten(1, 2))
        return codes.unflatten(1, z.shape[2:]).permute(0, 3, 1, 2), loss


def training_step(K: int, theirs: bool, images: Tensor):
    """Build a function that makes one update of the course's VQ autoencoder, with our quantiser or theirs."""
    torch.manual_seed(0)
    model = VQAutoencoder(tiny_config(K)).train()
    config = tiny_config(K)
    vectors = len(images) * (images.shape[-1] // config.downsampling_factor) ** 2
    peer = Peer(K, config.code_width, vectors).train() if theirs else None
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16()):
            z = model.encode(images)
            with torch.autocast("cpu", enabled=False):  # both search in float32
                if peer is None:
                    quantized = model.quantize(z.float())
                    codes = quantized.z_q
                    loss = quantized.loss.mean()
                else:
                    codes, loss = peer(z.float())
            reconstructed = model.decode_codes(codes)
        (F.mse_loss(reconstructed.float(), images) + loss).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def run(batch_size: int = 16, updates: int = 8) -> None:
    """Time training with both quantisers in one process, alternating."""
    images = load_faces(size=64, limit=batch_size).tensor()
    networks = []
    for K in (1024, 8192):
        steps = [training_step(K, theirs, images) for theirs in (False, True)]
        seconds = alternating([repeated(step, updates) for step in steps])
        ratios = [their_time / our_time for our_time, their_time in zip(*seconds, strict=True)]
        entry = {
            "network": f"{K} codes",
            "images_per_second": [round(batch_size * updates / statistics.median(s), 1) for s in seconds],
            "ratio": round(statistics.median(ratios), 3),
            "spread": range_of(ratios),
        }
        networks.append(entry)
        print(entry, flush=True)
    peer = f"vector-quantize-pytorch {version('vector-quantize-pytorch')}"
    record = {"hardware": hardware(), "batch_size": batch_size, "peer": peer, "networks": networks}
    write_record(repository_root() / SPEED, record)


def draw_chelsea(models: dict[str, VQAutoencoder]) -> None:
    """Write the figure: Chelsea, and her reconstruction by each autoencoder, by what it was trained on."""
    from helpers.show.figures import grid, save_png, style

    style()
    chelsea = load_chelsea()
    reconstructions = {f"trained on {data}": reconstruct(model, chelsea)[0] for data, model in models.items()}
    images = torch.cat([chelsea, *reconstructions.values()])
    save_png(grid(images, titles=["Chelsea", *reconstructions], scale=3), repository_root() / FIGURE)


def main(folder: Path | None = None) -> None:
    """Draw the figure; with a run on photographs, measure that on unseen ones and write the record."""
    models = {"synthetic faces": VQAutoencoder.from_weights("vq")}
    if folder is not None:
        models["photographs"] = measured_on_photographs(folder)
    draw_chelsea(models)


def measured_on_photographs(folder: Path) -> VQAutoencoder:
    """Write the record of a finished run on photographs, and return its autoencoder."""
    weights = folder / "weights.safetensors"
    if not weights.exists() or read_metadata(weights).get("source") != "animal-faces":
        sys.exit(f"{folder} holds no finished run on photographs: give --source animal-faces --out {folder}")
    model = VQAutoencoder.from_weights(weights)
    metadata = read_metadata(weights)
    faces = load_faces("animal-faces", "val", 64)
    reconstructions, _, used = reconstruct(model, faces.tensor())
    record = {
        "command": metadata["command"],
        "minutes": float(metadata["minutes"]),
        "steps": int(metadata["steps"]),
        "threads": int(metadata["threads"]),
        "faces": len(faces),
        "psnr": round(psnr(faces.tensor(), reconstructions), 2),
        "codes_in_use": round(used.utilization, 4),
        "perplexity": round(used.perplexity, 1),
    }
    write_record(repository_root() / REAL, record)
    print(json.dumps(record))
    return model


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python -m benchmarks.autoencoders.vq [RUN_FOLDER]")
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else None)
