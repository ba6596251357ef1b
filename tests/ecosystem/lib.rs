//! Only the tests matter: see `docs/ecosystem.md`.
