"""How good is a network? Modules here know nothing of how it was made."""
