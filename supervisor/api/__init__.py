"""The daemon's door: who is calling, wire messages ⇄ values, and errors → gRPC status."""
