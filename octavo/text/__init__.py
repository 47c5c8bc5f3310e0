"""Text to tokens and back; one file per chat format in `chat/`. No torch."""
