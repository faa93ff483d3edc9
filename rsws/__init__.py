"""A WebSocket gateway over Redis Streams, and its client."""
