//! Keystone and TLS, from outside.
