"""Privacy mechanisms, accounting and encryption, without FLARE."""
