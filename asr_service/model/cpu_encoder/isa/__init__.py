"""The instructions that the compiled loops are made of."""
