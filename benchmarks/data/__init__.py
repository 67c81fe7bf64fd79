"""The datasets: how fast they load, and what they hold."""
