"""The commands of `lucid-agent`, imported one by one when they are asked for."""
