//! Where the objects of a repository lie: a folder, memory, or either behind a decorator.
//!
//! All of them keep the contract of [`lakebed_core::storage::Storage`], which [`contract`] checks. Writes to the files
//! of a repository happen in [`local`] and nowhere else.

pub mod careful;
pub mod contract;
pub mod local;
pub mod memory;
pub mod probe;
pub mod readonly;
pub mod reserve;
pub mod surveyed;

pub use careful::CarefulStorage;
pub use contract::{Clause, ContractViolation};
pub use local::LocalStorage;
pub use memory::MemoryStorage;
pub use readonly::ReadOnlyStorage;
pub use reserve::WithReserve;
pub use surveyed::{Survey, SurveyedStorage};
