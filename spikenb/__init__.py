"""Helpers of the spikenb book: gradient descent on a loss of one flat vector θ, and what to measure along it."""

__version__ = "0.1.0"
