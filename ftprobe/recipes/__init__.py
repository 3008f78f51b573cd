"""Studies and analyses shipped with ftprobe, as data."""
