"""Pages that show a dataset to the person of this machine who asked for them."""
