"""The real unit files and the Debian package under a real systemd."""
