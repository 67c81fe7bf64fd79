"""What Stable Diffusion 1 and 3 share: the checked request, and the parts of the way from prompt to image."""
