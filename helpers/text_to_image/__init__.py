"""What Stable Diffusion 1 and 3 share: the checked request, and the steps from prompt to image as functions."""
