"""What only a card can show: `make gpu-check`, half an hour on one."""
