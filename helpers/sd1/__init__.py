"""Stable Diffusion 1: CLIP text encoder, latent U-Net, KL autoencoder, and the pipeline from prompt to image."""
