"""Images to small codes and back."""
