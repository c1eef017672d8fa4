"""Jobs on a cluster: submit, watch, restart; and everything people look at."""
