"""The variants of the VAE that notebook 05 compares: small networks, each one change to the loss or the latent."""
