"""Makes the images of the landing page's parts: `python -m pages.pictures`.

One image for each part of the course, the map and the diagrams of the notebooks, written to 00_assets/image; generated
or synthetic, never a photograph but Chelsea (CC0).
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import Any

import numpy as np
import torch

from helpers.ask import ask, example_image, load_model
from helpers.autoencoders.kl import KLAutoencoder
from helpers.autoencoders.vq import VQAutoencoder, codes_to_rgb, reconstruct
from helpers.data import load_faces
from helpers.data.captions import caption
from helpers.data.toy_faces import draw_face, toy_attributes
from helpers.generate.output import tile
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd3.pipeline import StableDiffusion3
from helpers.show.annotate import annotate
from helpers.show.diagrams import LINE, Canvas
from helpers.show.figures import grid, save_png
from helpers.tiny_sd.model import TinySD
from helpers.vlm.examples import PARTS as PARTS_OF_A_FACE
from helpers.vlm.pipeline import PaliGemma
from pages.build import IMAGES, PARTS
from pages.pictures import (
    autoencoders,
    chelsea,
    course_map,
    diffusion,
    latent_diffusion,
    motion,
    neighbours,
    own_images,
    tiny_unet,
    vision_language,
)
from pages.pictures import paligemma as paligemma_diagram
from pages.pictures import sd1 as sd1_diagram
from pages.pictures import sd3 as sd3_diagram
from pages.pictures.drawing import save_diagram

DETECT = f"detect {' ; '.join(PARTS_OF_A_FACE)}"


def synthetic_faces() -> None:
    """Three rows of synthetic faces, of the default dataset."""
    faces = sorted(toy_attributes(30, seed=1), key=lambda face: face.species)
    images = np.stack([draw_face(face, 96) for face in faces])
    save_png(grid(images, columns=10), IMAGES / PARTS["Data"].image)


def noise_becomes_an_image() -> None:
    """Three generations, a row each, from pure noise on the left to the image on the right."""
    walk = list(TinySD.from_weights("tiny_sd_pixels").sample_steps(["cat", "dog", "wild"], steps=24, seed=12))
    shown = [walk[step].x.clamp(-1, 1) for step in (0, 3, 7, 11, 14, 16, 18, 20, 21, 23)]
    save_png(grid(torch.stack(shown, dim=1).flatten(0, 1), columns=10), IMAGES / PARTS["DDPM"].image)


def noise_becomes_animals() -> None:
    """An animation and a film strip of real animals by Method 2."""
    motion.write(IMAGES, TinySD.from_weights("tiny_sd_animals_128"))


def stable_diffusion_1() -> None:
    """The architecture of Stable Diffusion 1."""
    save_png(sd1_diagram.draw(StableDiffusion1.from_weights()).figure, IMAGES / PARTS["Inference"].image)


def stable_diffusion_3() -> None:
    """The architecture of Stable Diffusion 3, for notebook 06."""
    save_png(sd3_diagram.draw(StableDiffusion3.from_weights()).figure, IMAGES / "sd3.png")


def faces_from_codes() -> None:
    """Unseen faces, their maps of codes in false colours, and what is decoded from those."""
    model = VQAutoencoder.from_weights("vq")
    images = load_faces(split="val", size=64, limit=10, progress=False).tensor()
    reconstructions, maps, _ = reconstruct(model, images)
    shown = torch.cat([images, codes_to_rgb(model, maps), reconstructions])
    save_png(grid(shown, columns=10), IMAGES / PARTS["Autoencoders"].image)


def generated_faces() -> None:
    """Three rows of faces generated from captions alone."""
    captions = [caption(face) for face in sorted(toy_attributes(30, seed=2), key=lambda face: face.species)]
    images = TinySD.from_weights("tiny_sd_pixels").generate(prompts=captions, guidance_scale=3, seed=100)
    save_png(grid(images, columns=10), IMAGES / PARTS["Tiny Stable Diffusion"].image)


def paligemma() -> None:
    """The architecture of PaliGemma, for notebook 14."""
    save_png(paligemma_diagram.draw(PaliGemma.from_weights()).figure, IMAGES / "paligemma.png")


def questions_about_faces() -> None:
    """Four unseen faces with the boxes and the outline that the tiny PaliGemma gives, and its answers."""
    assistant = PaliGemma.from_weights()
    faces = list(load_faces(split="val", limit=16, progress=False).tensor()[8:12])
    prompts = ["caption en", "answer en what colour are the eyes?", "answer en is its tongue out?"]
    replies = [assistant.generate(faces, [prompt] * len(faces)) for prompt in prompts]
    boxes = assistant.detect(faces, " ; ".join(PARTS_OF_A_FACE))
    outlines = assistant.segment(faces, "face")
    canvas = Canvas(1000, 384, PARTS["Multimodal"].alt)
    for i, face in enumerate(faces):
        x = 30 + 245 * i
        canvas.image(x, 12, 205, 205, face)
        for detection in boxes[i]:
            canvas.outline(x, 12, 205, 205, detection.box)
        canvas.axes.contour(
            outlines[i][0].mask.float(),
            levels=[0.5],
            colors="#ffe66d",
            linewidths=2,
            zorder=5,
            extent=(x, x + 205, 12, 217),
        )
        for j, (prompt, text) in enumerate(zip(prompts, replies, strict=True)):
            y = (234, 306, 346)[j]
            lines = fill(text[i], 30)
            canvas.text(x, y, prompt, 7.5, align="left", colour=LINE)
            canvas.text(x, y + 9 + 8 * len(lines.splitlines()), lines, 9, align="left", bold=True)
    save_png(canvas.figure, IMAGES / PARTS["Multimodal"].image)


def answers_about_faces() -> None:
    """Three unseen faces as `python -m helpers.ask` draws boxes, masks and names on them."""
    model = load_model()
    drawings = []
    for number, prompts in ((4, [DETECT]), (5, ["segment face"]), (3, [DETECT, "segment face"])):
        face = example_image(number)
        objects: list[Any] = []
        for reply in ask(model, face, prompts, progress=False):
            objects += reply.objects
        drawings.append(annotate(face, objects))
    tile(drawings, columns=len(drawings)).save(IMAGES / "answers.webp", quality=90, method=6)


def course_maps() -> None:
    """The map of the course, once for each notebook."""
    images = course_map.thumbnails(StableDiffusion1.from_weights())
    for notebook in course_map.SUBJECTS:
        save_diagram(course_map.draw(notebook, images), IMAGES / f"map_{notebook}.png")


def diffusion_diagrams() -> None:
    """Markov chain, guidance and solver steps, for notebooks 02 to 04."""
    save_diagram(diffusion.markov_chain(), IMAGES / "diagram_markov_chain.png")
    save_diagram(diffusion.guidance(), IMAGES / "diagram_guidance.png")
    save_diagram(diffusion.solvers(), IMAGES / "diagram_solver_steps.png")


def autoencoder_diagrams() -> None:
    """VAE and VQ-VAE, for notebooks 07 and 08."""
    save_diagram(autoencoders.vae(KLAutoencoder.from_weights("faces_autoencoder")), IMAGES / "diagram_vae.png")
    save_diagram(autoencoders.vq_vae(VQAutoencoder.from_weights("vq")), IMAGES / "diagram_vq_vae.png")


def latent_diffusion_diagrams() -> None:
    """The stages of Methods 2 and 3, for notebooks 11 and 12."""
    for method in latent_diffusion.FIRST_STAGE:
        images = latent_diffusion.examples(TinySD.from_weights(f"tiny_sd_{method}"))
        save_diagram(latent_diffusion.draw(method, images), IMAGES / f"diagram_latent_diffusion_{method}.png")


def chelsea_as_networks_see_her() -> None:
    """A real cat for the openings of notebooks 05, 06, 07 and 14."""
    sd1 = KLAutoencoder.from_weights("autoencoder")
    sd3 = StableDiffusion3.from_weights().autoencoder
    save_png(chelsea.latent_channels(sd1), IMAGES / "chelsea_latent.png")
    save_png(chelsea.reconstructions({"4 channels": sd1, "16 channels": sd3}), IMAGES / "chelsea_channels.png")
    save_png(chelsea.autoencoder_and_prior(TinySD.from_weights("tiny_sd_animals")), IMAGES / "chelsea_prior.png")
    save_png(chelsea.patches(), IMAGES / "chelsea_patches.png")


def images_of_your_own() -> None:
    """Chelsea in three lights, for the page Your own images; trains for it."""
    with TemporaryDirectory() as folder:
        model = own_images.trained(Path(folder))
    save_png(own_images.draw(model), IMAGES / "own_images.png")


def unet_of_method_1() -> None:
    """The network of Method 1, for notebook 09."""
    save_diagram(tiny_unet.draw(TinySD.from_weights("tiny_sd_pixels")), IMAGES / "diagram_tiny_unet.png")


def precision_and_recall() -> None:
    """The balls of precision and recall, for notebook 13."""
    save_diagram(neighbours.draw(), IMAGES / "diagram_precision_recall.png")


def vision_language_diagrams() -> None:
    """CLIP's loss beside SigLIP's, and a resampler, for notebooks 14 and 15."""
    save_diagram(vision_language.losses(), IMAGES / "diagram_contrastive_losses.png")
    save_diagram(vision_language.resampler(), IMAGES / "diagram_resampler.png")


if __name__ == "__main__":
    for make in (
        synthetic_faces,
        noise_becomes_an_image,
        noise_becomes_animals,
        stable_diffusion_1,
        stable_diffusion_3,
        faces_from_codes,
        generated_faces,
        paligemma,
        questions_about_faces,
        answers_about_faces,
        course_maps,
        diffusion_diagrams,
        autoencoder_diagrams,
        latent_diffusion_diagrams,
        chelsea_as_networks_see_her,
        images_of_your_own,
        unet_of_method_1,
        precision_and_recall,
        vision_language_diagrams,
    ):
        make()
