"""Layers' compiled code for a CPU; each has its twin in torch."""
