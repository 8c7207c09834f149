//! What must not be told.

use std::fmt;

/// A secret. It is shown nowhere, and wiped when it is not needed any more.
#[derive(Clone)]
pub(crate) struct Secret(zeroize::Zeroizing<String>);

impl Secret {
    pub(crate) fn new(secret: impl Into<String>) -> Self {
        Self(zeroize::Zeroizing::new(secret.into()))
    }

    /// Returns it, for whom it is meant.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Returns a text without it.
    pub(crate) fn redact(&self, text: &str) -> String {
        // what is too short to be a secret would take words apart
        if self.0.len() < 6 {
            return text.to_owned();
        }
        // in a form it looks otherwise
        let in_form: String = url::form_urlencoded::byte_serialize(self.0.as_bytes()).collect();
        text.replace(self.0.as_str(), "***").replace(&in_form, "***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
