"""One engagement model for every product surface, exported once per surface."""

__version__ = "0.1.0"
