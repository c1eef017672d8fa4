"""Finding everything that a run would trip over before it does, and mending what can be mended."""
