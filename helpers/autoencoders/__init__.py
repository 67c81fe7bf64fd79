"""Pictures to small codes and back."""
