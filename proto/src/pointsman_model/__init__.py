"""The pure vocabulary of Pointsman."""
