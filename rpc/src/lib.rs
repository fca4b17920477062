//! JSON-RPC 2.0 in SPDK's conventions: types, Unix-socket server and client.
