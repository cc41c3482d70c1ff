"""The names of the members that every model file has."""

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
