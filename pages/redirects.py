"""A page at every address that a notebook had before it was renumbered: links from elsewhere lead to the new one."""

from pathlib import Path

# address before -> address now, without .html
MOVED = {
    "03_stable_diffusion_1": "05_stable_diffusion_1",
    "04_stable_diffusion_3": "06_stable_diffusion_3",
    "05_vae_variants": "07_vae_variants",
    "06_vqvae": "08_vqvae",
    "07_tiny_sd_pixels": "09_tiny_sd_pixels",
    "08_tiny_sd_pretrained_vae": "11_tiny_sd_pretrained_vae",
    "09_tiny_sd_own_vae": "12_tiny_sd_own_vae",
    "10_three_methods_compared": "13_three_methods_compared",
    "11_paligemma": "14_paligemma",
    "12_multimodal_landscape": "15_multimodal_landscape",
}
# A solution's address names the number alone, and every number has a notebook again: nothing to redirect.

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>This page has moved</title>
<link rel="canonical" href="{address}">
<meta http-equiv="refresh" content="0; url={address}">
<p>This page has moved to <a href="{address}">{address}</a>.</p>
</html>
"""


def write(html: Path) -> None:
    """Write the redirecting pages into the folder of the built pages; a new page of the same name has precedence."""
    for before, now in MOVED.items():
        old = html / "notebooks" / f"{before}.html"
        if not old.exists() and old.with_name(f"{now}.html").exists():
            old.write_text(PAGE.format(address=f"{now}.html"), encoding="utf-8")
