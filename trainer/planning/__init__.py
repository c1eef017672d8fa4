"""What a run would take, before it is started: bytes, seconds, days, and which head to choose."""
