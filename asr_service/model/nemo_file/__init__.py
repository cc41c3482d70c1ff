"""A model's file: the archive, and what its members say about the model."""
