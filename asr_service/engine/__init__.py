"""One model on one device: its process, its slots, and who is stepped next."""
