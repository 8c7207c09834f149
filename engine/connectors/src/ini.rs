//! Files of profiles, as the command lines of the clouds have them.

use std::path::Path;

use configparser::ini::{Ini, IniDefault};

/// Why a file was not read.
pub(crate) enum IniError {
    /// It is there and cannot be read.
    Unreadable(std::io::Error),
    /// It is no such file.
    Malformed(String),
}

/// Reads a file; `None` where there is none. Names are taken as they are written.
pub(crate) fn read_ini(path: &Path) -> Result<Option<Ini>, IniError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IniError::Unreadable(source)),
    };
    let mut defaults = IniDefault::default();
    // what stands before the first section belongs to none
    defaults.default_section = String::new();
    defaults.case_sensitive = true;
    let mut file = Ini::new_from_defaults(defaults);
    // what is indented belongs to the setting above it, and a value may have any character
    file.set_multiline(true);
    file.set_inline_comment_symbols(Some(&[]));
    file.read(text).map_err(IniError::Malformed)?;
    Ok(Some(file))
}
