"""The encoder step in torch operations: what runs on a GPU."""
