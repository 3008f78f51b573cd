"""Study files shipped with ftprobe, as data."""
