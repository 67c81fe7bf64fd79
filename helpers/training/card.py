"""The model card beside trained weights, and their way to the Hugging Face hub: `--push-to-hub OWNER/NAME`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

COURSE = "From DDPM to Stable Diffusion"
ROWS = {  # key of the weights' metadata -> what the card calls it
    "command": "command",
    "source": "training images",
    "photographs": "photographs",
    "captions": "captions",
    "steps": "updates",
    "core_minutes": "core-minutes",
    "precision": "precision",
    "seed": "seed",
    "start_sha256": "fine-tuned from the weights with SHA-256",
    "torch": "PyTorch",
    "sha256": "SHA-256 of the tensors",
}
LIMITS = """Nothing was measured by the training itself: look at many samples, and count, before you rely on the model.
A network that was trained on few images may reproduce some of them; compare samples with their nearest training
images before you publish any. Whoever is recognisable in the training images should know of it."""


def model_card(name: str, metadata: Mapping[str, str], samples: str | None = None) -> str:
    """Write the card of trained weights, as Markdown with the header that the Hugging Face hub reads.

    Args:
        name: of the model.
        metadata: of the weights.
        samples: name of an image of samples beside the card.
    """
    licence = metadata.get("licence")
    header = ["---", "tags:", "- diffusion"]
    if licence:
        header += ["license: other", "license_name: non-commercial"]
    table = [f"| {title} | {_cell(metadata[key])} |" for key, title in ROWS.items() if key in metadata]
    parts = [
        "\n".join([*header, "---"]),
        f"# {name}",
        f"Trained with the course *{COURSE}*.",
        f"![Generated images]({samples})" if samples else "",
        "\n".join(["| | |", "|---|---|", *table]),
        f"**Licence.** {licence[0].upper()}{licence[1:]}." if licence else "",
        f"**Limits.** {LIMITS}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cell(text: str) -> str:
    """Text of metadata as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def check_hub(repository: str) -> None:
    """Raise SystemExit if the hub would refuse an upload to this repository: now, and not after hours of training."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        HfApi().create_repo(repository, exist_ok=True, private=True)
    except HFValidationError as error:
        raise SystemExit(f"--push-to-hub {repository}: {error}") from error
    except LocalTokenNotFoundError as error:
        raise SystemExit(f"--push-to-hub {repository}: log in first, with `hf auth login`") from error
    except (HfHubHTTPError, OSError) as error:
        raise SystemExit(f"--push-to-hub {repository}: {' '.join(str(error).split())}") from error


def push_to_hub(repository: str, *files: Path) -> str:
    """Upload files, the weights first, to a repository that exists; returns its address, or why it did not work."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    with tempfile.TemporaryDirectory() as folder:
        for path in files:
            shutil.copyfile(path, Path(folder) / path.name)
        try:
            HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Trained with {COURSE}")
        except (HfHubHTTPError, OSError) as error:
            reason = " ".join(str(error).split())
            return f"not uploaded ({reason}); later: hf upload {repository} {files[0].parent}"
    return f"uploaded to https://huggingface.co/{repository}"
