"""Margin softmax over classes that live on different ranks."""
