"""The asynchronous, sharded parameter server: layout and shard decide, server and client act."""
