//! Behaviour of a fake workspace, over real connections.
