"""The life of the daemon: its one state (`lifecycle`), and who keeps it going and says so.

`pulse` looks every second, `watchdog` and `notify` tell the service manager, `supervise` starts a
part again that failed; `ticks` lets looks fall together, `hang` tests all that.
"""
