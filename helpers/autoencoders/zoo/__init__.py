"""The variants of the VAE that notebook 07 compares: small networks, each one change to the loss or the latent."""
