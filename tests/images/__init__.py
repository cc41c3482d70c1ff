"""The container images, built and run for real: `make images`, or python -m tests.images."""
