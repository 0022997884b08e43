"""The stream to the Observer: what the journal holds is delivered, at least once.

`stream` connects, and connects again; `session` is one stream from Hello to its end; `protocol` is
that without I/O; `grpc_bridge` joins gRPC's threads and trio. `status` is what others know of it,
without gRPC, which costs memory that an agent without an Observer does not have to spend.
"""
