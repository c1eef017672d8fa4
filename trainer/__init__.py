"""One training run: config, backbones, engine, loop, checkpoints, verification."""
