"""The model in the page: is it right, fast and light, and does it work without a network?"""
