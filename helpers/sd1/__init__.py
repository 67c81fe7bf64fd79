"""Stable Diffusion 1: a caption, noise in latent space, and a U-Net that looks from one to the other."""
