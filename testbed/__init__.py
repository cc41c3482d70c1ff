"""What tests and benchmarks share: models of random weights, servers as processes, frames of gRPC."""
