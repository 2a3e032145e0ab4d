"""The miniature's procedural world: real files on disk, as the web would hold them. See ``write.write``."""
