"""`more4d doctor`: whether this machine can run a preset, how long it will take, and what to do first if it cannot."""
