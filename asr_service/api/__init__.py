"""What clients reach: everything that imports grpc."""
