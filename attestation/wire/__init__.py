"""The protobuf messages of the Observer stream: `observer.proto` and the code generated from it."""
