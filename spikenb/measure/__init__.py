"""What to measure on what a run recorded: plain NumPy, no gradients."""
