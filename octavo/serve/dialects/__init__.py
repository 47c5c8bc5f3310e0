"""One small pure file per wire: bytes -> `Asked`, events -> bytes."""
