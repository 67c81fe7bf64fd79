"""What the reader sees: figures, tables and sliders. It knows nothing of data sets or networks."""
