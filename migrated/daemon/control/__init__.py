"""Control of a running daemon through its socket: protocol, server, pending requests, client."""
