"""The Debian package: a virtual environment below /opt, unit files, configuration."""
