"""Layers, attention contexts, experts and packed linears. Knows tensors, no words."""
