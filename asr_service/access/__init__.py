"""Who may call, and how connections are protected."""
