"""`lucid demo`: Observer, agent and a small model server on free loopback ports."""
