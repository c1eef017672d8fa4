"""What people look at: the Grafana dashboard, generated from the table of series."""
