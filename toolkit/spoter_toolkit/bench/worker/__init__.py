"""The process that measures one backend, and the client that talks to it."""
