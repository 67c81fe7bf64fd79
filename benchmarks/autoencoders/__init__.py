"""The autoencoders: reconstruction, quantisation, and the variants of notebook 07."""
