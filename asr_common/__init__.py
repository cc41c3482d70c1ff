"""What service, bridge and clients share: small, and without an import of theirs."""
